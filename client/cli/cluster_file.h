/* SPDX-License-Identifier: Apache-2.0 */
/* cluster_file: where the cluster is: addresses for data, addresses for control (ashlar-cluster.conf(5)).
 *
 * Concept: --cluster, else $ASHLAR_CLUSTER, is the path of a file or a list of gateway addresses; else the file is
 *   $ASHLAR_DIR/cluster.conf (a cluster of deploy/local), else /etc/ashlar/cluster.conf. Control addresses that are not given follow
 *   from those for data: port + 1, data.sock -> control.sock.
 * Threading: start only. Errors: -errno and one line. Ownership: all is copied into the struct.
 */
#ifndef ASHLAR_CLIENT_CLI_CLUSTER_FILE_H
#define ASHLAR_CLIENT_CLI_CLUSTER_FILE_H

#include <stdint.h>

#include "common/config.h"

#define CLUSTER_ADDRESSES_MAX 64u
#define CLUSTER_ADDRESS_MAX 108u
#define CLUSTER_TEXT_MAX 4096u
#define CLUSTER_PATH_MAX 4096u

struct cluster_file {
    char path[CLUSTER_PATH_MAX];  /* absolute; empty: addresses were given instead */
    char given[CLUSTER_TEXT_MAX]; /* those addresses */
    uint32_t control_count;
    char control[CLUSTER_ADDRESSES_MAX][CLUSTER_ADDRESS_MAX];
};

int cluster_file_load(struct cluster_file *cluster, const char *where, char error[CONFIG_ERROR_MAX]);

#endif
