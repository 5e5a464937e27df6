/* Owns the OpenAPI document of all paths that the server answers: docs/openapi.json, whose bytes are part of the program. */
#ifndef NM_SERVER_OPENAPI_H
#define NM_SERVER_OPENAPI_H

#include <stddef.h>

const char *nm_openapi_document(size_t *length);    /* static */

#endif
