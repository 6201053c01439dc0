/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list and the table the core is made of.
 *
 * The happy path: a head points at itself when empty; push appends before it;
 * remove leaves the element pointing at itself, so that removing twice is seen.
 *
 * Failure modes: none; misuse trips an assert.
 */
#include "server/control/consensus_ops.h"

#include <assert.h>

void consensus_link_init(struct consensus_link *head)
{
    assert(head != NULL);
    head->prev = head;
    head->next = head;
}

bool consensus_link_empty(const struct consensus_link *head)
{
    assert((head->next == head) == (head->prev == head));
    return head->next == head;
}

void consensus_link_push(struct consensus_link *head, struct consensus_link *link)
{
    assert(head->prev->next == head);
    assert(link != head);
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

void consensus_link_remove(struct consensus_link *link)
{
    assert(link->prev != link); /* not in a list */
    assert(link->prev->next == link && link->next->prev == link);
    link->prev->next = link->next;
    link->next->prev = link->prev;
    consensus_link_init(link);
}

const struct consensus_peer *consensus_peer_find(const struct consensus *c, uint64_t id)
{
    assert(c->peers_count <= CONSENSUS_VOTERS_MAX);
    for (unsigned i = 0; i < c->peers_count; i++)
        if (c->peers[i].id == id)
            return &c->peers[i];
    return NULL;
}
