/* The configuration: a flat JSON object of whole numbers. */
#pragma once
#include <stdint.h>

#include "bindings/policy.h"

struct setting {
  const char *name;
  uint64_t smallest, largest;
  /* Its default before the call. */
  uint64_t *value;
};

/* Reads the text into the settings; empty text leaves the defaults. Otherwise false, with what is wrong. */
bool read_config(const policy_string_t *text, const struct setting *settings, size_t count, policy_string_t *wrong);
