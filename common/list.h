/* SPDX-License-Identifier: Apache-2.0 */
/* list: intrusive doubly linked ring. list_node_init a head; an element not on a list has next == NULL after
 * list_remove. Threading and ownership: the holder's. */
#ifndef ASHLAR_COMMON_LIST_H
#define ASHLAR_COMMON_LIST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

struct list_node {
    struct list_node *next, *prev;
};

#define list_entry(node, type, field) ((type *)(void *)((char *)(node)-offsetof(type, field)))
#define list_for_each(pos, head) for (struct list_node *pos = (head)->next; pos != (head); pos = pos->next)
#define list_for_each_safe(pos, tmp, head) \
    for (struct list_node *pos = (head)->next, *tmp = pos->next; pos != (head); pos = tmp, tmp = tmp->next)

static inline void list_head_init(struct list_node *head)
{
    head->next = head->prev = head;
}
static inline bool list_empty(const struct list_node *head)
{
    return head->next == head;
}
static inline bool list_linked(const struct list_node *node)
{
    return node->next != NULL;
}
static inline void list_insert_before(struct list_node *where, struct list_node *node)
{
    assert(!list_linked(node));
    node->prev = where->prev;
    node->next = where;
    where->prev->next = node;
    where->prev = node;
}
static inline void list_push_back(struct list_node *head, struct list_node *node)
{
    list_insert_before(head, node);
}
static inline void list_push_front(struct list_node *head, struct list_node *node)
{
    list_insert_before(head->next, node);
}
static inline void list_remove(struct list_node *node)
{
    assert(list_linked(node));
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = NULL;
}
static inline struct list_node *list_pop_front(struct list_node *head)
{
    if (list_empty(head))
        return NULL;
    struct list_node *first = head->next;
    list_remove(first);
    return first;
}

#endif
