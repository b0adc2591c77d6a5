/* What the bindings use of <stdlib.h>: see heap.c. */
#pragma once
#include <stddef.h>

void *malloc(size_t bytes);
void *realloc(void *block, size_t bytes);
void free(void *block);
#define abort() __builtin_trap()
