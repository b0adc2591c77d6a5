/* What the bindings use of <string.h>. With bulk memory, `memcpy` is one instruction. */
#pragma once
#include <stddef.h>

#define memcpy(to, from, bytes) __builtin_memcpy((to), (from), (bytes))
#define memcmp(left, right, bytes) compare((left), (right), (bytes))

static inline size_t strlen(const char *text) {
  size_t bytes = 0;
  while (text[bytes] != 0) bytes++;
  return bytes;
}

static inline int compare(const void *left, const void *right, size_t bytes) {
  const unsigned char *a = left, *b = right;
  for (size_t i = 0; i < bytes; i++) {
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return 0;
}
