/* The heap: one free list for each power of two. Blocks are never merged, so the heap is at most twice what was ever
   in use at once for each size, and a call of the broker allocates alike each time. Running out of memory traps. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 65536u
/* Of the smallest block, header included. Blocks are aligned to 8 bytes. */
#define SMALLEST_LOG2 5
#define LARGEST_LOG2 24

struct block {
  uint32_t size_log2;
  uint32_t unused;
  /* While it is free; else the caller's bytes begin here. */
  struct block *next;
};
#define HEADER_BYTES offsetof(struct block, next)

extern uint8_t __heap_base;

static struct block *free_blocks[LARGEST_LOG2 + 1];
/* The bytes that were never in a block. */
static uintptr_t fresh, fresh_end;

static struct block *fresh_block(uint32_t size_log2) {
  uint32_t bytes = 1u << size_log2;
  if (fresh == 0) {
    fresh = ((uintptr_t)&__heap_base + 7) & ~(uintptr_t)7;
    fresh_end = __builtin_wasm_memory_size(0) * PAGE_BYTES;
  }
  if (fresh_end < fresh || fresh_end - fresh < bytes) {
    size_t pages = bytes / PAGE_BYTES + 1;
    /* The memory may be full: a trap is what the broker understands. */
    if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) abort();
    fresh_end = __builtin_wasm_memory_size(0) * PAGE_BYTES;
  }
  struct block *block = (struct block *)fresh;
  fresh += bytes;
  block->size_log2 = size_log2;
  return block;
}

void *malloc(size_t bytes) {
  uint32_t size_log2 = SMALLEST_LOG2;
  while ((1u << size_log2) - HEADER_BYTES < bytes) {
    if (size_log2 == LARGEST_LOG2) abort();
    size_log2++;
  }
  struct block *block = free_blocks[size_log2];
  if (block != NULL) {
    free_blocks[size_log2] = block->next;
  } else {
    block = fresh_block(size_log2);
  }
  return (uint8_t *)block + HEADER_BYTES;
}

static struct block *block_of(void *bytes) { return (struct block *)((uint8_t *)bytes - HEADER_BYTES); }

void free(void *bytes) {
  if (bytes == NULL) return;
  struct block *block = block_of(bytes);
  block->next = free_blocks[block->size_log2];
  free_blocks[block->size_log2] = block;
}

void *realloc(void *bytes, size_t wanted) {
  if (bytes == NULL) return malloc(wanted);
  size_t has = (1u << block_of(bytes)->size_log2) - HEADER_BYTES;
  if (wanted <= has) return bytes;
  void *larger = malloc(wanted);
  memcpy(larger, bytes, has);
  free(bytes);
  return larger;
}
