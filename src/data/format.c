/* The prompt formats of Stanford Alpaca and Vicuna, and none at all, as chat templates: so that there is one way from messages to tokens, and `run` and
 * `serve` obey them by the very text that was trained.
 *
 * alpaca   Stanford's prompt, which ends at "### Response:" without a line break (alpaca-lora adds one; tatsu-lab's train.py does not); the answer and
 *          EOS follow at once. A system message takes the place of the preamble. Further turns begin at an empty line.
 * vicuna   FastChat's vicuna_v1.1: one line, "USER: ... ASSISTANT: ...</s>USER: ...".
 * raw      contents one after the other, EOS behind each answer. */
#include <string.h>

#include "data/data.h"

#define ROLE_ERROR "{% else %}{{ raise_exception('this format has no role ' ~ m.role) }}{% endif %}"

static const char alpaca[] =
    "{% set ns = namespace(system=none, turns=0) %}"
    "{% for m in messages %}"
    "{% if m.role == 'system' and loop.first %}{% set ns.system = m.content %}"
    "{% elif m.role == 'user' %}"
    "{% if ns.turns %}{% elif ns.system %}{{ ns.system }}"
    "{% elif m.input %}Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "{% else %}Below is an instruction that describes a task. Write a response that appropriately completes the request.{% endif %}"
    "{% set ns.turns = ns.turns + 1 %}"
    "{{ '\\n\\n### Instruction:\\n' ~ (m.instruction or m.content) }}"
    "{% if m.input %}{{ '\\n\\n### Input:\\n' ~ m.input }}{% endif %}"
    "{{ '\\n\\n### Response:' }}"
    "{% elif m.role == 'assistant' %}{{ m.content ~ eos_token }}" ROLE_ERROR "{% endfor %}";

static const char vicuna[] =
    "{% if not messages or messages[0].role != 'system' %}A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. {% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'system' and loop.first %}{{ m.content ~ ' ' }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' ~ m.content ~ ' ASSISTANT:' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' ~ m.content ~ eos_token }}" ROLE_ERROR "{% endfor %}";

static const char raw[] = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";

static const struct { const char *name, *text; } formats[] = {{"alpaca", alpaca}, {"vicuna", vicuna}, {"raw", raw}};

const char *nm_format_template(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i].name, name)) return formats[i].text;
    return NULL;
}
