/* The OpenAPI document: the bytes of docs/openapi.json become part of the program when it is built. */
#include "server/openapi.h"

#include "nm_share.h"
#include "openapi_text.h"

__asm__(".pushsection .rodata\n.hidden nm_openapi_text\n.hidden nm_openapi_text_end\n.global nm_openapi_text\n.global nm_openapi_text_end\n"
        "nm_openapi_text:\n.incbin \"" NM_SHARE "/../docs/openapi.json\"\nnm_openapi_text_end:\n.byte 0\n.popsection\n");
extern const char nm_openapi_text[], nm_openapi_text_end[];

const char *nm_openapi_document(size_t *length)
{
    *length = (size_t)(nm_openapi_text_end - nm_openapi_text);
    return nm_openapi_text;
}
