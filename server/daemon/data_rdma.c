/* SPDX-License-Identifier: Apache-2.0 */
/* data_rdma: the data thread's RDMA transport: whether there is one, where it listens, what is told of it.
 *
 *   - made when the node is registered; node.transport=auto goes on without where this host has no RDMA, rdma does not;
 *   - listens at the data address, in RDMA's own port space, before TCP does: who finds both takes RDMA;
 *   - `stats` tells of each link to another node by which transport it runs, and why not by RDMA.
 * Failure modes: with transport=rdma a host without RDMA, or an address without an RDMA device, ends the start with one
 *   line; with auto it is told once, and TCP serves.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/transport/rdma.h"
#include "server/daemon/data_internal.h"

#define LOG_MODULE "daemon"

static bool is_wildcard(const char *host)
{
    assert(host != NULL);
    return strcmp(host, "*") == 0 || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "[::]") == 0;
}

/* The host of node.data: connections come from it, too, so that the peer sees a known address. */
static void source_of(const struct settings *settings, char ret_host[SETTINGS_ADDRESS_MAX])
{
    size_t host_bytes = 0;
    uint16_t port;
    int rc = settings_split_address(settings->data, &host_bytes, &port);
    assert(rc == 0 && host_bytes < SETTINGS_ADDRESS_MAX); /* settings_load checked it */
    memcpy(ret_host, settings->data, host_bytes);
    ret_host[host_bytes] = '\0';
    if (is_wildcard(ret_host))
        ret_host[0] = '\0';
}

int data_rdma_open(struct data_thread *d)
{
    const struct settings *settings = d->config.settings;
    char source[SETTINGS_ADDRESS_MAX];
    assert(!d->rdma && d->incarnation);
    if (settings->transport == PEERS_TRANSPORT_TCP)
        return 0;
    source_of(settings, source);
    struct transport_rdma_config config = {
        .links_max = settings->rdma_links, .spin_us = settings->rdma_spin_us, .source = source};
    int rc = transport_rdma_create(d->loop, d->pool, &config, &d->rdma);
    if (rc == 0) {
        transport_rdma_identify(d->rdma, d->node, d->incarnation);
        return 0;
    }
    if (settings->transport == PEERS_TRANSPORT_AUTO) {
        log_info("no RDMA here: %s; links between daemons use TCP",
                 rc == -ENOSYS ? "this build has none" : strerror(-rc));
        d->rdma_error = rc;
        return 0;
    }
    log_error("node.transport=rdma, but %s error=\"%s\"; load the device's driver and rdma_ucm, or set auto or tcp",
              rc == -ENOSYS ? "this build has no RDMA" : "this host has no RDMA device", strerror(-rc));
    return rc;
}

int data_rdma_listen(struct data_thread *d, transport_accept_cb accepted)
{
    const struct settings *settings = d->config.settings;
    char address[SETTINGS_ADDRESS_MAX + 8];
    if (!d->rdma)
        return 0;
    assert(!d->rdma_listener);
    (void)snprintf(address, sizeof(address), "rdma:%s", settings->data);
    int rc = transport_listen(d->rdma, address, accepted, d, &d->rdma_listener);
    if (rc == 0) {
        log_info("listening for data address=%s", listener_address(d->rdma_listener));
        return 0;
    }
    d->rdma_error = rc;
    if (settings->transport == PEERS_TRANSPORT_RDMA) {
        log_error("node.transport=rdma, but no RDMA device has address %s error=\"%s\"; give node.data the address of "
                  "one (rdma link; ip addr), or set auto or tcp",
                  settings->data, strerror(-rc));
        return rc;
    }
    log_info("no RDMA device has address %s error=\"%s\": others reach this node by TCP", settings->data,
             strerror(-rc));
    return 0;
}

/* The port is taken, by our own listener perhaps: TCP needs it more. */
int data_rdma_give_up(struct data_thread *d, int rc)
{
    const struct settings *settings = d->config.settings;
    assert(d->rdma_listener && rc < 0);
    listener_close(d->rdma_listener);
    d->rdma_listener = NULL;
    d->rdma_error = rc;
    if (settings->transport == PEERS_TRANSPORT_RDMA) {
        log_error(
            "node.transport=rdma, but RDMA and TCP cannot both listen at %s error=\"%s\": an iWARP device needs a port "
            "mapper (iwpmd); siw has none",
            settings->data, strerror(-rc));
        return rc;
    }
    log_warn("RDMA and TCP cannot both listen at %s error=\"%s\": links use TCP (iWARP needs iwpmd)", settings->data,
             strerror(-rc));
    peers_without_rdma(d->peers, rc); /* it would reach TCP's listeners, and wait for an answer in vain */
    return 0;
}

/* ---- what is told */

struct teller {
    const struct data_thread *d;
    struct bridge_stats *stats;
};

static void tell_link(void *arg, const struct map_node *node)
{
    struct teller *teller = arg;
    const struct data_thread *d = teller->d;
    struct peers_link_info info;
    if (node->id == d->node || !node->up || teller->stats->link_count == MAP_NODES_MAX)
        return;
    peers_link_info(d->peers, node->id, &info);
    struct bridge_link *link = &teller->stats->links[teller->stats->link_count++];
    *link = (struct bridge_link){.node = node->id, .up = info.up, .rdma = info.rdma};
    int rc = d->rdma ? info.rdma_error : d->rdma_error;
    assert(rc <= 0);
    if (!info.rdma && rc < 0)
        (void)snprintf(link->reason, sizeof(link->reason), "%s", rc == -ENOSYS ? "built without RDMA" : strerror(-rc));
    if (info.rdma && info.link)
        (void)snprintf(link->device, sizeof(link->device), "%s", transport_rdma_device(info.link));
}

void data_rdma_tell(const struct data_thread *d, struct bridge_stats *ret)
{
    struct teller teller = {.d = d, .stats = ret};
    assert(d->peers && !ret->links);
    ret->links = calloc(MAP_NODES_MAX, sizeof(*ret->links));
    if (ret->links)
        map_each_node(d->map, tell_link, &teller);
    if (!d->rdma)
        return;
    struct transport_rdma_stats stats;
    transport_rdma_stats(d->rdma, &stats);
    ret->rdma = (struct bridge_rdma){
        .sends = stats.sends,
        .control_sends = stats.control_sends,
        .reads = stats.reads,
        .read_bytes = stats.read_bytes,
        .offers = stats.binds,
        .doorbells = stats.doorbells,
        .completions = stats.completions,
        .wakeups = stats.wakeups,
        .receives = stats.receives,
        .tx_copied_bytes = stats.tx_copied_bytes,
        .rx_copied_bytes = stats.rx_copied_bytes,
        .links_failed = stats.links_failed,
        .offers_cut = stats.offers_cut,
    };
}
