/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_none: rdma.h in a build without RDMA libraries: there is no such transport.
 *
 *   - transport_rdma_create says -ENOSYS; whoever asked goes on with TCP.
 * Failure modes: the other calls cannot come, since no RDMA transport exists.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "common/transport/rdma.h"

int transport_rdma_create(struct ring_loop *loop, struct buf_pool *bufs, const struct transport_rdma_config *config,
                          struct transport **ret_transport)
{
    assert(loop && bufs);
    assert(config && ret_transport);
    return -ENOSYS;
}

void transport_rdma_identify(struct transport *transport, uint32_t node, uint64_t incarnation)
{
    assert(!transport);
    (void)node;
    (void)incarnation;
}

void transport_rdma_shutdown(struct transport *transport)
{
    assert(!transport);
}

size_t transport_rdma_live(const struct transport *transport)
{
    assert(!transport);
    return 0;
}

void transport_rdma_destroy(struct transport *transport)
{
    assert(!transport);
}

void transport_rdma_stats(const struct transport *transport, struct transport_rdma_stats *ret_stats)
{
    assert(!transport);
    *ret_stats = (struct transport_rdma_stats){.sends = 0};
}

void transport_rdma_show(const struct transport *transport)
{
    assert(!transport);
}

const char *transport_rdma_device(const struct link *link)
{
    assert(!link);
    return "";
}
