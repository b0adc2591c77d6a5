#include "config.h"

#include <string.h>

struct cursor {
  const uint8_t *at, *end;
};

static void skip_space(struct cursor *text) {
  while (text->at < text->end && (*text->at == ' ' || *text->at == '\t' || *text->at == '\n' || *text->at == '\r')) {
    text->at++;
  }
}

/* Takes this character, with the white space before it. */
static bool take(struct cursor *text, char wanted) {
  skip_space(text);
  if (text->at == text->end || *text->at != wanted) return false;
  text->at++;
  return true;
}

static bool take_name(struct cursor *text, policy_string_t *name) {
  if (!take(text, '"')) return false;
  const uint8_t *begin = text->at;
  while (text->at < text->end && *text->at != '"' && *text->at != '\\') text->at++;
  *name = (policy_string_t){(uint8_t *)begin, text->at - begin};
  return take(text, '"');
}

static bool take_number(struct cursor *text, uint64_t *number) {
  skip_space(text);
  const uint8_t *begin = text->at;
  *number = 0;
  while (text->at < text->end && *text->at >= '0' && *text->at <= '9') {
    if (*number > (UINT64_MAX - 9) / 10) return false;
    *number = *number * 10 + (*text->at - '0');
    text->at++;
  }
  return text->at > begin;
}

/* With the name, of which there is as much as fits. */
static bool refuse(policy_string_t *wrong, const char *what, const char *name, size_t name_bytes) {
  char text[128];
  size_t what_bytes = strlen(what);
  if (what_bytes > sizeof text) __builtin_trap();
  if (name_bytes > sizeof text - what_bytes) {
    name_bytes = sizeof text - what_bytes;
    /* Not in the middle of a character: what a policy hands over is UTF-8, or it traps. */
    while (name_bytes > 0 && ((uint8_t)name[name_bytes] & 0xC0) == 0x80) name_bytes--;
  }
  memcpy(text, what, what_bytes);
  memcpy(text + what_bytes, name, name_bytes);
  policy_string_dup_n(wrong, text, what_bytes + name_bytes);
  return false;
}

static const struct setting *find(const struct setting *settings, size_t count, const policy_string_t *name) {
  for (size_t i = 0; i < count; i++) {
    if (strlen(settings[i].name) == name->len && memcmp(settings[i].name, name->ptr, name->len) == 0) {
      return &settings[i];
    }
  }
  return NULL;
}

bool read_config(const policy_string_t *json, const struct setting *settings, size_t count, policy_string_t *wrong) {
  struct cursor text = {json->ptr, json->ptr + json->len};
  skip_space(&text);
  if (text.at == text.end) return true;
  if (!take(&text, '{')) return refuse(wrong, "config: an object is expected", "", 0);
  if (!take(&text, '}')) {
    do {
      policy_string_t name;
      if (!take_name(&text, &name) || !take(&text, ':')) return refuse(wrong, "config: a setting is expected", "", 0);
      const struct setting *setting = find(settings, count, &name);
      if (setting == NULL) return refuse(wrong, "config: there is no setting ", (const char *)name.ptr, name.len);
      if (!take_number(&text, setting->value)) {
        return refuse(wrong, "config: no whole number in ", setting->name, name.len);
      }
      if (*setting->value < setting->smallest || *setting->value > setting->largest) {
        return refuse(wrong, "config: out of its range is ", setting->name, name.len);
      }
    } while (take(&text, ','));
    if (!take(&text, '}')) return refuse(wrong, "config: `,` or `}` is expected", "", 0);
  }
  skip_space(&text);
  return text.at == text.end || refuse(wrong, "config: there is something after the object", "", 0);
}
