/* The program: a table of subcommands. */
#include <stdio.h>

#include "nomoat.h"

int main(void)
{
    fprintf(stderr, "nomoat %s\n", nm_version());
    return 2;
}
