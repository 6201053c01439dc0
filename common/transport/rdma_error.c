/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_error: the errors of verbs and rdma_cm in our currency, and the lines that tell an operator what to set.
 *
 *   - a work completion's status and an rdma_cm event become -errno; the loss of detail is made good by the log line of
 *     the caller (ibv_wc_status_str, rdma_event_str).
 * Failure modes: none; what is not known is -EIO.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#include "common/log.h"
#include "common/transport/rdma_internal.h"

#define LOG_MODULE "rdma"
/* ib_cm reject reasons (IBTA 12.6.7.2) that a connect can see. */
#define REJECT_INVALID_SERVICE 8
#define REJECT_CONSUMER 28

int rdma_error_of_status(enum ibv_wc_status status)
{
    assert(status != IBV_WC_SUCCESS);
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR: return -ETIMEDOUT;
    case IBV_WC_RNR_RETRY_EXC_ERR: /* a peer that does not keep to its credits */
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_LOC_PROT_ERR: return -EBADMSG;
    case IBV_WC_LOC_LEN_ERR: return -EMSGSIZE;
    case IBV_WC_WR_FLUSH_ERR:
    case IBV_WC_REM_ABORT_ERR:
    case IBV_WC_REM_OP_ERR: return -ECONNRESET;
    default: return -EIO;
    }
}

int rdma_error_of_event(enum rdma_cm_event_type event, int status)
{
    switch (event) {
    case RDMA_CM_EVENT_REJECTED:
        assert(status != 0 || event == RDMA_CM_EVENT_REJECTED);
        return status == REJECT_CONSUMER ? -EPROTONOSUPPORT : -ECONNREFUSED;
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR: return status < 0 && status != -EINVAL ? status : -EHOSTUNREACH;
    case RDMA_CM_EVENT_UNREACHABLE: return -EHOSTUNREACH;
    case RDMA_CM_EVENT_DISCONNECTED: return -EPIPE;
    case RDMA_CM_EVENT_DEVICE_REMOVAL: return -ENODEV;
    default: return -ECONNRESET;
    }
}

void rdma_error_memlock(size_t bytes, int error)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    assert(error > 0);
    (void)getrlimit(RLIMIT_MEMLOCK, &limit); /* trap 10 */
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < bytes)
        log_error("RDMA cannot lock %zu MiB of memory: RLIMIT_MEMLOCK is %" PRIu64
                  " KiB; set LimitMEMLOCK=infinity in the unit file, or ulimit -l unlimited",
                  bytes >> 20, (uint64_t)limit.rlim_cur >> 10);
    else
        log_error(
            "RDMA cannot register %zu MiB of memory error=\"%s\"; lower memory.buffers, or give the host more memory",
            bytes >> 20, strerror(error));
}
