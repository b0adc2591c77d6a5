/* A circuit breaker for each tenant. One whose deliveries failed so often in a row rests; then one delivery tries
   whether its work succeeds again: if it does, the tenant goes on as before, else it rests twice as long, up to a
   maximum. Others do not wait behind work that fails anyway.

   It is a policy as any other, only in C: the broker's contract is bindings/policy.h, made from wit/policy.wit. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/policy.h"
#include "config.h"

/* Names of the contract, shorter. */
typedef exports_sluicegate_policy_scheduler_feedback_t feedback_t;
typedef exports_sluicegate_policy_scheduler_frame_t frame_t;
typedef exports_sluicegate_policy_scheduler_plan_t plan_t;
typedef sluicegate_policy_types_answer_t answer_t;
typedef sluicegate_policy_types_lite_view_t lite_view_t;

enum verdict { SERVE = 0, THROTTLE = 1 };
enum outcome { DONE = 0, RETRIED = 1, DEAD_LETTERED = 2, LEASE_RAN_OUT = 3 };
enum reason { AS_USUAL, TRIES, RESTS, AWAITS_THE_TRY };
static const char *const REASONS[] = {"as usual", "tries again", "rests after failures", "waits for one that tries"};
#define REASON_COUNT (sizeof REASONS / sizeof *REASONS)

#define INFO 3
#define OWN_PRIORITY 255
/* The broker asks about a lite topic again after one message, so that a failure counts at once, or after this time. */
#define MESSAGES_A_TIME 1
#define VALID_US 1000000u
/* How long a delivery that tries may be under way before another may try. */
#define TRY_US 60000000u
/* How soon those that wait for it are asked about again. */
#define LOOK_AGAIN_US 50000u

static const char CONFIG_SCHEMA[] =
    "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
    "\"failures\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1000,\"default\":3},"
    "\"rest_ms\":{\"type\":\"integer\",\"minimum\":10,\"maximum\":60000,\"default\":1000},"
    "\"rest_max_ms\":{\"type\":\"integer\",\"minimum\":10,\"maximum\":3600000,\"default\":60000}}}";

static uint64_t failures_max = 3;
static uint64_t rest_ms = 1000;
static uint64_t rest_max_ms = 60000;

/* What is remembered of a tenant since its last success. As it is in a snapshot: Wasm is little-endian everywhere. */
struct tenant {
  uint64_t id;
  /* It rests until then; then one delivery tries. */
  uint64_t rests_until_us;
  /* One is under way that tries, until then at most. */
  uint64_t tries_until_us;
  /* In a row. 0: the entry is free. */
  uint32_t failures;
  /* Rests since the last success. */
  uint32_t rests;
};
#define STATE_SCHEMA 1

/* Tenants are found in the set that their id falls into. In a full set the one that rests least makes place. */
#define SETS 512u
#define WAYS 8u
static struct tenant tenants[SETS * WAYS];

static struct tenant *set_of(uint64_t id) {
  uint64_t set = (id * UINT64_C(0x9E3779B97F4A7C15)) >> 32 & (SETS - 1);
  return &tenants[set * WAYS];
}

static struct tenant *find(uint64_t id) {
  struct tenant *set = set_of(id);
  for (size_t way = 0; way < WAYS; way++) {
    if (set[way].failures > 0 && set[way].id == id) return &set[way];
  }
  return NULL;
}

static struct tenant *find_or_place(uint64_t id) {
  struct tenant *found = find(id);
  if (found != NULL) return found;
  struct tenant *set = set_of(id), *place = set;
  for (size_t way = 0; way < WAYS; way++) {
    if (set[way].failures == 0) {
      place = &set[way];
      break;
    }
    if (set[way].rests_until_us < place->rests_until_us) place = &set[way];
  }
  *place = (struct tenant){.id = id};
  return place;
}

static uint64_t saturating_add(uint64_t left, uint64_t right) {
  uint64_t sum;
  return __builtin_add_overflow(left, right, &sum) ? UINT64_MAX : sum;
}

static void log_rest(const struct tenant *tenant) {
  policy_string_t line;
  const char *text = tenant->rests > 1 ? "a tenant failed again after its rest" : "a tenant failed too often in a row";
  policy_string_set(&line, text);
  sluicegate_policy_host_log(INFO, &line);
}

static void failed(uint64_t id, uint64_t at_us) {
  struct tenant *tenant = find_or_place(id);
  /* What was under way when it was sent to rest says nothing new. */
  if (at_us < tenant->rests_until_us) return;
  if (tenant->failures < UINT32_MAX) tenant->failures++;
  if (tenant->failures < failures_max) return;
  uint64_t rest = rest_ms << (tenant->rests < 20 ? tenant->rests : 20);
  if (rest > rest_max_ms) rest = rest_max_ms;
  tenant->rests_until_us = saturating_add(at_us, rest * 1000);
  tenant->tries_until_us = 0;
  if (tenant->rests < UINT32_MAX) tenant->rests++;
  log_rest(tenant);
}

void exports_sluicegate_policy_scheduler_observe(exports_sluicegate_policy_scheduler_list_feedback_t *list) {
  for (size_t i = 0; i < list->len; i++) {
    const feedback_t *feedback = &list->ptr[i];
    struct tenant *tenant;
    switch (feedback->outcome) {
      case DONE:
        tenant = find(feedback->tenant);
        if (tenant != NULL) tenant->failures = 0;
        break;
      case RETRIED:
      case DEAD_LETTERED:
      case LEASE_RAN_OUT:
        failed(feedback->tenant, feedback->at_us);
        break;
      default:
        /* It came back unused: another may try. */
        tenant = find(feedback->tenant);
        if (tenant != NULL) tenant->tries_until_us = 0;
    }
  }
  exports_sluicegate_policy_scheduler_list_feedback_free(list);
}

static answer_t serve(enum reason reason, uint64_t memo) {
  return (answer_t){.verdict = SERVE,
                    .band = OWN_PRIORITY,
                    .max_messages = MESSAGES_A_TIME,
                    .valid_us = VALID_US,
                    .reason = reason,
                    .memo = memo};
}

static answer_t hold(uint64_t duration_us, enum reason reason) {
  return (answer_t){.verdict = THROTTLE, .duration_us = duration_us, .reason = reason};
}

static answer_t decide_on(const lite_view_t *lite, struct tenant *tenant, uint64_t now_us) {
  if (tenant == NULL || tenant->rests == 0) return serve(AS_USUAL, 0);
  if (now_us < tenant->rests_until_us) return hold(tenant->rests_until_us - now_us, RESTS);
  /* The one that tries may be asked about again before it was delivered. Its memo says after which rest it tries. */
  bool is_it = lite->memo == tenant->rests && lite->in_flight == 0;
  if (now_us < tenant->tries_until_us && !is_it) return hold(LOOK_AGAIN_US, AWAITS_THE_TRY);
  tenant->tries_until_us = saturating_add(now_us, TRY_US);
  return serve(TRIES, tenant->rests);
}

void exports_sluicegate_policy_scheduler_decide(frame_t *frame, plan_t *plan) {
  size_t rows = frame->lites.len;
  *plan = (plan_t){0};
  if (rows > 0) {
    plan->answers.ptr = malloc(rows * sizeof(answer_t));
    plan->answers.len = rows;
  }
  for (size_t row = 0; row < rows; row++) {
    const lite_view_t *lite = &frame->lites.ptr[row];
    uint64_t tenant = frame->tenants.ptr[lite->tenant].tenant;
    plan->answers.ptr[row] = decide_on(lite, find(tenant), frame->now_us);
  }
  exports_sluicegate_policy_scheduler_frame_free(frame);
}

void exports_sluicegate_policy_lifecycle_describe(exports_sluicegate_policy_lifecycle_descriptor_t *descriptor) {
  *descriptor = (exports_sluicegate_policy_lifecycle_descriptor_t){.state_schema = STATE_SCHEMA};
  policy_string_dup(&descriptor->name, "circuit-breaker");
  policy_string_dup(&descriptor->version, "1.0.0");
  policy_string_dup(&descriptor->config_schema, CONFIG_SCHEMA);
  descriptor->reasons.ptr = malloc(REASON_COUNT * sizeof(policy_string_t));
  descriptor->reasons.len = REASON_COUNT;
  for (size_t i = 0; i < REASON_COUNT; i++) policy_string_dup(&descriptor->reasons.ptr[i], REASONS[i]);
}

bool exports_sluicegate_policy_lifecycle_init(exports_sluicegate_policy_lifecycle_binding_t *binding,
                                              policy_string_t *config, policy_string_t *wrong) {
  const struct setting settings[] = {
      {"failures", 1, 1000, &failures_max},
      {"rest_ms", 10, 60000, &rest_ms},
      {"rest_max_ms", 10, 3600000, &rest_max_ms},
  };
  bool good = read_config(config, settings, sizeof settings / sizeof *settings, wrong);
  policy_string_free(config);
  exports_sluicegate_policy_lifecycle_binding_free(binding);
  return good;
}

/* It works on ids alone. */
void exports_sluicegate_policy_lifecycle_learn(exports_sluicegate_policy_lifecycle_list_entity_t *entities) {
  exports_sluicegate_policy_lifecycle_list_entity_free(entities);
}

/* Who rests goes on resting: the table is bounded by itself. */
void exports_sluicegate_policy_lifecycle_forget(uint32_t kind, policy_list_u64_t *ids) {
  (void)kind;
  policy_list_u64_free(ids);
}

bool exports_sluicegate_policy_lifecycle_snapshot(exports_sluicegate_policy_lifecycle_state_blob_t *state,
                                                  policy_string_t *wrong) {
  (void)wrong;
  size_t count = 0;
  for (size_t i = 0; i < SETS * WAYS; i++) count += tenants[i].failures > 0;
  *state = (exports_sluicegate_policy_lifecycle_state_blob_t){.schema = STATE_SCHEMA};
  if (count == 0) return true;
  state->data.len = count * sizeof(struct tenant);
  state->data.ptr = malloc(state->data.len);
  struct tenant *next = (struct tenant *)state->data.ptr;
  for (size_t i = 0; i < SETS * WAYS; i++) {
    if (tenants[i].failures > 0) *next++ = tenants[i];
  }
  return true;
}

bool exports_sluicegate_policy_lifecycle_restore(exports_sluicegate_policy_lifecycle_state_blob_t *state,
                                                 policy_string_t *wrong) {
  size_t count = state->data.len / sizeof(struct tenant);
  bool good = state->schema == STATE_SCHEMA && state->data.len % sizeof(struct tenant) == 0;
  for (size_t i = 0; good && i < count; i++) {
    struct tenant tenant;
    memcpy(&tenant, state->data.ptr + i * sizeof tenant, sizeof tenant);
    *find_or_place(tenant.id) = tenant;
  }
  if (!good) policy_string_dup(wrong, "the state is of another format");
  exports_sluicegate_policy_lifecycle_state_blob_free(state);
  return good;
}
