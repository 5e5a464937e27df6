/* Owns what is known of rules before they are compiled: which are missing, may be empty, or can never end. In time linear in the grammar. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "generate/grammar_build.h"

static nm_err find_missing(nm_build *b)
{
    bool root = false;
    for (uint32_t i = 1; i < b->n_rules; i++) {
        const nm_rule *r = &b->rules[i];
        if (!r->defined) return nm_grammar_fault(b, r->at, "there is no rule of the name '%.*s'", nm_rule_shown(r), b->text + r->at);
        if (r->length == 4 && !strncmp(b->text + r->at, "root", 4)) {
            b->g->root = i;
            root = true;
        }
    }
    return root ? NM_OK : nm_grammar_fault(b, 0, "there is no rule of the name 'root', which is where a grammar begins");
}

/* Lists, for each rule, the parts that stand for it. */
static void link_uses(nm_build *b)
{
    for (uint32_t i = 1; i < b->n_parts; i++) {
        nm_part *p = &b->parts[i];
        if (!p->is_rule) continue;
        p->next_use = b->rules[p->what].use;
        b->rules[p->what].use = i;
    }
}

/* A property that a rule has where each part of one of its choices may be left out, is a rule that has it, or is a set and `sets` says that
 * those have it. missing: per choice, parts without it; list: rules that were found, in the order of finding. */
static void spread(nm_build *b, bool sets, uint32_t *missing, bool (*has)(const nm_rule *), void (*give)(nm_rule *))
{
    size_t found = 0;
    for (uint32_t c = 1; c < b->n_choices; c++) {
        missing[c] = 0;
        for (uint32_t p = b->choices[c].first; p; p = b->parts[p].next) missing[c] += b->parts[p].least > 0 && (b->parts[p].is_rule || !sets);
        nm_rule *r = &b->rules[b->choices[c].rule];
        if (missing[c] || has(r)) continue;
        give(r);
        b->list[found++] = b->choices[c].rule;
    }
    for (size_t i = 0; i < found; i++) {
        for (uint32_t p = b->rules[b->list[i]].use; p; p = b->parts[p].next_use) {
            uint32_t c = b->parts[p].choice;
            nm_rule *r = &b->rules[b->choices[c].rule];
            if (!b->parts[p].least || --missing[c] || has(r)) continue;
            give(r);
            b->list[found++] = b->choices[c].rule;
        }
    }
}

static bool is_empty(const nm_rule *r) { return r->empty; }
static bool does_end(const nm_rule *r) { return r->ends; }
static void give_empty(nm_rule *r) { r->empty = true; }
static void give_ends(nm_rule *r) { r->ends = true; }

/* Rules that stand for more than nothing: those with a set, and those that name such a rule. All of them end by now. */
static void find_readers(nm_build *b)
{
    size_t found = 0;
    for (uint32_t i = 1; i < b->n_parts; i++) {
        uint32_t rule = b->choices[b->parts[i].choice].rule;
        if (b->parts[i].is_rule || b->rules[rule].reads) continue;
        b->rules[rule].reads = true;
        b->list[found++] = rule;
    }
    for (size_t i = 0; i < found; i++) {
        for (uint32_t p = b->rules[b->list[i]].use; p; p = b->parts[p].next_use) {
            uint32_t rule = b->choices[b->parts[p].choice].rule;
            if (b->rules[rule].reads) continue;
            b->rules[rule].reads = true;
            b->list[found++] = rule;
        }
    }
}

nm_err nm_grammar_check(nm_build *b)
{
    NM_TRY(find_missing(b));
    NM_TRY(NM_GROW(b->list, b->list_capacity, b->n_rules));
    uint32_t *missing = nm_calloc(b->n_choices, sizeof *missing);
    if (!missing) return nm_fail_memory(b->n_choices * sizeof *missing);
    link_uses(b);
    spread(b, false, missing, is_empty, give_empty);
    spread(b, true, missing, does_end, give_ends);
    nm_free(missing);
    for (uint32_t i = 1; i < b->n_rules; i++) {
        const nm_rule *r = &b->rules[i], *owner = &b->rules[r->owner];
        if (!r->ends)
            return nm_grammar_fault(b, r->at, "the rule '%.*s' can never end: give it a choice that does not lead back to itself", nm_rule_shown(owner),
                                    b->text + owner->at);
    }
    find_readers(b);
    return NM_OK;
}
