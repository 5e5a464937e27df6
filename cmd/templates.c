/* Chat templates by the names that users of llama.cpp type (--chat-template NAME), for models whose file has none. What each writes is the
 * format that its family was trained on, as far as it could be checked; a model's own template knows more (tools, thinking) and is to be
 * preferred. None writes BOS: the tokenizer does. */
#include <string.h>

#include "talk.h"

#define EACH "{%- for m in messages -%}"
#define NEXT "{%- endfor -%}"
#define PROMPT(text) "{%- if add_generation_prompt -%}{{ '" text "' }}{%- endif -%}"
/* A form for each of the three roles. */
#define ALTERNATE(system, user, assistant) EACH "{%- if m.role == 'system' -%}{{ " system " }}{%- elif m.role == 'user' -%}{{ " user " }}" \
    "{%- else -%}{{ " assistant " }}{%- endif -%}" NEXT

/* Mistral: a turn opens with [INST] once, before its system message if there is one. */
#define MISTRAL(open, close, answer) "{%- set ns = namespace(inside=false) -%}" EACH "{%- if not ns.inside -%}{{ '" open "' }}{%- set ns.inside = true -%}{%- endif -%}" \
    "{%- if m.role == 'system' -%}{{ m.content + '\\n\\n' }}{%- elif m.role == 'user' -%}{{ m.content + '" close "' }}" \
    "{%- else -%}{{ " answer " + '</s>' }}{%- set ns.inside = false -%}{%- endif -%}" NEXT
#define LLAMA2(system) "{%- set ns = namespace(inside=false) -%}" EACH "{%- if not ns.inside -%}{{ '[INST] ' }}{%- set ns.inside = true -%}{%- endif -%}" \
    "{%- if m.role == 'system' -%}{{ " system " }}{%- elif m.role == 'user' -%}{{ m.content + ' [/INST]' }}" \
    "{%- else -%}{{ m.content + '</s>' }}{%- set ns.inside = false -%}{%- endif -%}" NEXT

static const struct { const char *name, *source; } builtin[] = {
    {"alpaca", "{%- if not messages or messages[0].role != 'system' -%}{{ 'Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\\n\\n' }}{%- endif -%}" ALTERNATE("m.content + '\\n\\n'", "'### Instruction:\\n' + m.content + '\\n\\n'",
        "'### Response:\\n' + m.content + eos_token + '\\n\\n'") PROMPT("### Response:\\n")},
    {"chatml", EACH "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}" NEXT PROMPT("<|im_start|>assistant\\n")},
    {"command-r", EACH "{{ '<|START_OF_TURN_TOKEN|><|' + {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[m.role] + '_TOKEN|>' + m.content|trim + "
        "'<|END_OF_TURN_TOKEN|>' }}" NEXT PROMPT("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>")},
    {"deepseek", ALTERNATE("m.content", "'### Instruction:\\n' + m.content + '\\n'", "'### Response:\\n' + m.content + '\\n<|EOT|>\\n'") PROMPT("### Response:\\n")},
    {"deepseek2", ALTERNATE("m.content + '\\n\\n'", "'User: ' + m.content + '\\n\\n'", "'Assistant: ' + m.content + '<｜end▁of▁sentence｜>'") PROMPT("Assistant:")},
    {"deepseek3", ALTERNATE("m.content + '\\n\\n'", "'<｜User｜>' + m.content", "'<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>'") PROMPT("<｜Assistant｜>")},
    {"falcon3", EACH "{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}" NEXT PROMPT("<|assistant|>\\n")},
    {"gemma", "{%- set ns = namespace(system='') -%}" EACH "{%- if m.role == 'system' -%}{%- set ns.system = ns.system + m.content|trim + '\\n\\n' -%}{%- else -%}"
        "{{ '<start_of_turn>' + ('model\\n' if m.role == 'assistant' else m.role + '\\n' + ns.system) + m.content|trim + '<end_of_turn>\\n' }}"
        "{%- if m.role == 'user' -%}{%- set ns.system = '' -%}{%- endif -%}{%- endif -%}" NEXT PROMPT("<start_of_turn>model\\n")},
    {"granite", EACH "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}" NEXT PROMPT("<|start_of_role|>assistant<|end_of_role|>")},
    {"llama2", LLAMA2("m.content + '\\n'")},
    {"llama2-sys", LLAMA2("'<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n'")},
    {"llama3", EACH "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content|trim + '<|eot_id|>' }}" NEXT
        PROMPT("<|start_header_id|>assistant<|end_header_id|>\\n\\n")},
    {"llama4", EACH "{{ '<|header_start|>' + m.role + '<|header_end|>\\n\\n' + m.content|trim + '<|eot|>' }}" NEXT PROMPT("<|header_start|>assistant<|header_end|>\\n\\n")},
    {"mistral-v1", MISTRAL(" [INST] ", " [/INST]", "' ' + m.content")},
    {"mistral-v3", MISTRAL("[INST] ", "[/INST]", "' ' + m.content|trim")},
    {"mistral-v3-tekken", MISTRAL("[INST]", "[/INST]", "m.content")},
    {"mistral-v7", ALTERNATE("'[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]'", "'[INST] ' + m.content + '[/INST]'", "' ' + m.content + '</s>'")},
    {"mistral-v7-tekken", ALTERNATE("'[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]'", "'[INST]' + m.content + '[/INST]'", "m.content + '</s>'")},
    {"openchat", EACH "{%- if m.role == 'system' -%}{{ m.content + '<|end_of_turn|>' }}{%- else -%}{{ 'GPT4 Correct ' + m.role|capitalize + ': ' + m.content + "
        "'<|end_of_turn|>' }}{%- endif -%}" NEXT PROMPT("GPT4 Correct Assistant:")},
    {"phi3", EACH "{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}" NEXT PROMPT("<|assistant|>\\n")},
    {"phi4", EACH "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}" NEXT PROMPT("<|im_start|>assistant<|im_sep|>")},
    {"vicuna", ALTERNATE("m.content + '\\n\\n'", "'USER: ' + m.content + '\\n'", "'ASSISTANT: ' + m.content + '</s>\\n'") PROMPT("ASSISTANT:")},
    {"vicuna-orca", ALTERNATE("'SYSTEM: ' + m.content + '\\n'", "'USER: ' + m.content + '\\n'", "'ASSISTANT: ' + m.content + '</s>\\n'") PROMPT("ASSISTANT:")},
    /* Zephyr of Mistral's family ends turns in </s>, StableLM's in <|endoftext|>: either is its EOS. */
    {"zephyr", EACH "{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}" NEXT PROMPT("<|assistant|>\\n")},
};

const char *nm_template_named(const char *name)
{
    for (size_t i = 0; i < sizeof builtin / sizeof *builtin; i++)
        if (!strcmp(builtin[i].name, name)) return builtin[i].source;
    return NULL;
}

const char *nm_template_name(size_t index) { return index < sizeof builtin / sizeof *builtin ? builtin[index].name : NULL; }
