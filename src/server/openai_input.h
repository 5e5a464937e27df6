/* Owns reading what a request for a response says: its input and tools, in the shapes that chats have. */
#ifndef NM_SERVER_OPENAI_INPUT_H
#define NM_SERVER_OPENAI_INPUT_H

#include "server/openai.h"

/* Appends "input" (a string, or items) to messages, which may hold an earlier conversation. NM_USAGE names the item. */
nm_err nm_openai_read_input(json_t *messages, const json_t *input);
/* "tools", "tool_choice", "parallel_tool_calls" of a response, into a. */
nm_err nm_openai_read_response_tools(nm_openai_ask *a, const json_t *body);
/* Whether a function that a model called is one of a namespace among a response's "tools", and which one. Borrowed. */
bool nm_openai_find_spaced(const json_t *tools, const char *told, const char **space, const char **name);
/* A system message in front of a copy of the conversation; together with one that it begins with. New reference, NULL without memory. */
json_t *nm_openai_instruct(json_t *messages, const char *instructions);
/* A JSON string of bytes that a model wrote; what is not UTF-8 becomes U+FFFD. New reference, NULL without memory. */
json_t *nm_openai_string(const char *bytes, size_t length);

#endif
