/* General text that ships with the library (share/general): what the anchor holds the model to, questions
 * that it asks it, and what the meter of forgetting reads. The bytes of the
 * files become part of the library when it is built. */
#include "general_texts.h"
#include "nm_share.h"
#include "nomoat.h"

#include <string.h>

#define TEXT(symbol, file) \
    __asm__(".pushsection .rodata\n.hidden " #symbol "\n.hidden " #symbol "_end\n.global " #symbol "\n.global " #symbol "_end\n" \
            #symbol ":\n.incbin \"" NM_SHARE "/" file "\"\n" #symbol "_end:\n.byte 0\n.popsection\n"); \
    extern const char symbol[], symbol##_end[]

TEXT(nm_text_anchor, "general/anchor.txt");
TEXT(nm_text_meter, "general/meter.txt");
TEXT(nm_text_questions, "general/questions.txt");

const char *nm_general_text(nm_general which, size_t *length)
{
    const char *const begin[] = {nm_text_anchor, nm_text_meter, nm_text_questions}, *const end[] = {nm_text_anchor_end, nm_text_meter_end, nm_text_questions_end};
    *length = (size_t)(end[which] - begin[which]);
    return begin[which];
}
