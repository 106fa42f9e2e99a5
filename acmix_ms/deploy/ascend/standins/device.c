/* A device of host memory that records what it is told to compute, behind the C functions of CANN (acl*, aclnn*, rt*).
 *
 * Compiled with `stand_ins.h`, which cann.py writes: STAND_IN(name) for each function that MindSpore's libraries want and
 * nothing here defines. Such a function logs its name and gives 0, or a new handle where its name says that it makes one.
 *
 * Everything goes to the file $STAND_IN_LOG, one JSON object a line:
 *   {"call": NAME}                                                     any other function; of a copy its "bytes" and "way"
 *   {"aclnn": NAME, "args": [...], "floats": [...]}                    a launch, with what its GetWorkspaceSize was given
 *   {"aclop": NAME, "in": [...], "out": [...], "attr": {...}}          a launch of a single operator of the graph engine
 *   {"mark": TEXT}                                                     stand_in_mark, from Python
 * A tensor is {"dtype": "float32", "shape": [...], "strides": [...], "offset": 0, "format": 2, "at": ADDRESS}; "floats"
 * are the bits of the floating-point registers, which hold the arguments of that kind.
 *
 * stand_in_on_launch gives each launch to a function as well, before the call returns: that is who computes.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t word;
#define OK 0
#define REFUSED 1

/* ------------------------------------------------------------------------------------------------------------- handles
 * All lie in one reserved range, so that an argument of a call is a handle or is none: no bookkeeping. */
enum kind { PLAIN, TENSOR, LIST, TEXT, BUFFER, ATTRIBUTES, CALL };
#define MAX_RANK 25
typedef struct handle {
  enum kind kind;
  int dtype, format, rank;
  int64_t shape[MAX_RANK], strides[MAX_RANK], offset;
  void *data;             /* of a tensor or a buffer */
  char *text;             /* of a scalar, an array, attributes or a call: JSON */
  struct handle **items;  /* of a list, or of the arguments of a call */
  word *words;            /* of a call: its arguments, where they are no handles */
  int count;
} handle;

#define RANGE (1ull << 37)
static handle *first, *next;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static handle *new_handle(enum kind kind) {
  pthread_mutex_lock(&lock);
  if (!first) first = next = mmap(0, RANGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  handle *made = next++;
  pthread_mutex_unlock(&lock);
  made->kind = kind;
  return made;
}

static handle *as_handle(word value) {
  word from = (word)first;
  return value >= from && value < (word)next && (value - from) % sizeof(handle) == 0 ? (handle *)value : NULL;
}

/* --------------------------------------------------------------------------------------------------------------- text */
typedef struct { char *text; size_t used, size; } writer; /* begins as zeros; the text is malloc's */

static void put(writer *w, const char *form, ...) {
  for (;;) {
    va_list values;
    va_start(values, form);
    int more = vsnprintf(w->text ? w->text + w->used : NULL, w->size - w->used, form, values);
    va_end(values);
    if (more < 0) abort();
    if (w->used + more < w->size) { w->used += more; return; }
    w->size = 2 * (w->used + more + 1); /* a kernel may have hundreds of tensors */
    if (!(w->text = realloc(w->text, w->size))) abort();
  }
}

static void put_numbers(writer *w, const int64_t *values, int count) {
  put(w, "[");
  for (int i = 0; i < count; i++) put(w, i ? ",%lld" : "%lld", (long long)values[i]);
  put(w, "]");
}

static const char *name_of(int dtype) {
  static const char *names[] = {"float32", "float16", "int8", "int32", "uint8", "?", "int16", "uint16", "uint32", "int64",
                                "uint64", "float64", "bool", "string", "?", "?", "complex64", "complex128"};
  return dtype == 27 ? "bfloat16" : dtype >= 0 && dtype < 18 ? names[dtype] : "?";
}

static void put_tensor(writer *w, const handle *t, const void *data) {
  put(w, "{\"dtype\":\"%s\",\"shape\":", name_of(t->dtype));
  put_numbers(w, t->shape, t->rank);
  put(w, ",\"strides\":");
  put_numbers(w, t->strides, t->rank);
  put(w, ",\"offset\":%lld,\"format\":%d,\"at\":%llu}", (long long)t->offset, t->format, (unsigned long long)(word)data);
}

static void put_value(writer *w, word value) {
  const handle *h = as_handle(value);
  if (!h) { put(w, "%d", (int32_t)value); return; } /* the upper half of a register is undefined for small integers */
  if (h->kind == TENSOR) put_tensor(w, h, h->data);
  else if (h->kind == LIST) {
    put(w, "[");
    for (int i = 0; i < h->count; i++) { if (i) put(w, ","); put_value(w, (word)h->items[i]); }
    put(w, "]");
  } else put(w, "%s", h->text ? h->text : "null");
}

static char *text_of(const char *form, ...) {
  char *made = NULL;
  va_list values;
  va_start(values, form);
  if (vasprintf(&made, form, values) < 0) abort();
  va_end(values);
  return made;
}

/* ---------------------------------------------------------------------------------------------------------------- log */
static FILE *log_file;
static void (*on_launch)(const char *);

static void say(const char *line) {
  pthread_mutex_lock(&lock);
  if (!log_file) {
    const char *path = getenv("STAND_IN_LOG");
    log_file = path ? fopen(path, "a") : NULL;
    if (!log_file) log_file = stderr;
    setvbuf(log_file, NULL, _IOLBF, 0);
  }
  fputs(line, log_file);
  fputc('\n', log_file);
  pthread_mutex_unlock(&lock);
}

static int launch(const char *record) {
  say(record);
  if (on_launch) on_launch(record);
  return OK;
}

void stand_in_on_launch(void (*function)(const char *)) { on_launch = function; }

void stand_in_mark(const char *text) {
  char line[1024];
  snprintf(line, sizeof line, "{\"mark\":\"%s\"}", text);
  say(line);
}

/* ----------------------------------------------------------------------------------------------- aclnn: two-phase calls
 * aclnnX GetWorkspaceSize(arguments..., uint64_t *size, aclOpExecutor **executor), then aclnnX(workspace, size, executor,
 * stream). The two pointers that end the arguments point to variables of the caller, that is near to our own frame. */
#if defined(__x86_64__)
#define REGISTERS 6
#elif defined(__aarch64__)
#define REGISTERS 8
#endif
#define FLOATS 8
#define STACK 34
#define ARGUMENTS (REGISTERS + STACK)
#define SUFFIX "GetWorkspaceSize"

static int near_the_stack(word value) {
  int64_t distance = (int64_t)(value - (word)__builtin_frame_address(0));
  return distance > -0x10000 && distance < 0x100000;
}

static long prepare(const char *name, const word *words, const double *floats) {
  int count = 1;
  while (count + 1 < ARGUMENTS && !(near_the_stack(words[count]) && near_the_stack(words[count + 1]))) count++;
  if (count + 1 >= ARGUMENTS) { fprintf(stderr, "stand-in: the arguments of %s have no end\n", name); abort(); }
  handle *call = new_handle(CALL);
  call->words = malloc(sizeof(word) * (count + FLOATS));
  memcpy(call->words, words, sizeof(word) * count);
  memcpy(call->words + count, floats, sizeof(word) * FLOATS);
  call->count = count;
  *(word *)words[count] = 0;
  *(handle **)words[count + 1] = call;
  return OK;
}

static long run(const char *name, const handle *call) {
  if (!as_handle((word)call) || call->kind != CALL) return OK; /* aclnnInit and the like */
  writer w = {0};
  put(&w, "{\"aclnn\":\"%s\",\"args\":[", name);
  for (int i = 0; i < call->count; i++) { if (i) put(&w, ","); put_value(&w, call->words[i]); }
  put(&w, "],\"floats\":[");
  for (int i = 0; i < FLOATS; i++) put(&w, i ? ",%llu" : "%llu", (unsigned long long)call->words[call->count + i]);
  put(&w, "]}");
  launch(w.text);
  free(w.text);
  return OK;
}

static int starts(const char *name, const char *with) { return !strncmp(name, with, strlen(with)); }

static long any(const char *name, const word *words, const double *floats) {
  size_t length = strlen(name), suffix = strlen(SUFFIX);
  if (starts(name, "aclnn")) {
    if (length > suffix && !strcmp(name + length - suffix, SUFFIX)) return prepare(name, words, floats);
    return run(name, (const handle *)words[2]);
  }
  char line[512];
  snprintf(line, sizeof line, "{\"call\":\"%s\"}", name);
  say(line);
  int makes = starts(name, "acl") && strstr(name, "Create") && !starts(name, "aclrtCreate") && !starts(name, "acltdt");
  return makes ? (long)new_handle(PLAIN) : OK;
}

/* Any C function: integers come in registers and then on the stack, floating-point numbers in registers of their own. */
#define D double x0, double x1, double x2, double x3, double x4, double x5, double x6, double x7
#define S(n) word s##n##0, word s##n##1, word s##n##2, word s##n##3, word s##n##4, word s##n##5, word s##n##6, word s##n##7
#define V(n) s##n##0, s##n##1, s##n##2, s##n##3, s##n##4, s##n##5, s##n##6, s##n##7
#if REGISTERS == 6
#define R word r0, word r1, word r2, word r3, word r4, word r5
#define U r0, r1, r2, r3, r4, r5
#else
#define R word r0, word r1, word r2, word r3, word r4, word r5, word r6, word r7
#define U r0, r1, r2, r3, r4, r5, r6, r7
#endif
#define STAND_IN(name)                                                        \
  long name(R, D, S(0), S(1), S(2), S(3), word s40, word s41) {               \
    const word words[] = {U, V(0), V(1), V(2), V(3), s40, s41};               \
    const double floats[] = {x0, x1, x2, x3, x4, x5, x6, x7};                 \
    return any(#name, words, floats);                                         \
  }

/* ---------------------------------------------------------------------------------------------- tensors and attributes */
void *aclCreateTensor(const int64_t *shape, uint64_t rank, int dtype, const int64_t *strides, int64_t offset, int format,
                      const int64_t *storage, uint64_t storage_rank, void *data) {
  handle *t = new_handle(TENSOR);
  t->dtype = dtype, t->rank = (int)rank, t->offset = offset, t->format = format, t->data = data;
  int64_t step = 1;
  for (int i = (int)rank; i-- > 0;) {
    t->shape[i] = shape[i];
    t->strides[i] = strides ? strides[i] : step;
    step *= shape[i];
  }
  return t;
}
int aclSetTensorAddr(void *executor, size_t index, void *tensor, void *data) {
  handle *t = as_handle((word)tensor);
  if (t) t->data = data;
  return t ? OK : REFUSED;
}
int aclSetDynamicTensorAddr(void *executor, size_t index, size_t inner, void *list, void *data) {
  handle *l = as_handle((word)list);
  if (!l || (int)inner >= l->count) return REFUSED;
  l->items[inner]->data = data;
  return OK;
}
void *aclCreateTensorList(void *const *tensors, uint64_t count) {
  handle *list = new_handle(LIST);
  list->items = malloc(sizeof(handle *) * (count + 1)), list->count = (int)count;
  memcpy(list->items, tensors, sizeof(handle *) * count);
  return list;
}
void *aclCreateScalar(void *value, int dtype) {
  handle *h = new_handle(TEXT);
  h->dtype = dtype;
  double number = dtype == 0 ? *(float *)value : dtype == 11 ? *(double *)value : 0;
  long long whole = dtype == 9 ? *(int64_t *)value : dtype == 3 ? *(int32_t *)value : dtype == 12 ? *(uint8_t *)value : 0;
  if (dtype == 0 || dtype == 11) h->text = text_of("{\"scalar\":%.17g,\"dtype\":\"%s\"}", number, name_of(dtype));
  else if (dtype == 9 || dtype == 3 || dtype == 12) h->text = text_of("{\"scalar\":%lld,\"dtype\":\"%s\"}", whole, name_of(dtype));
  else h->text = text_of("{\"scalar\":null,\"bits\":%u,\"dtype\":\"%s\"}", *(uint16_t *)value, name_of(dtype));
  return h;
}
static void *numbers(const int64_t *values, uint64_t count) {
  writer w = {0};
  put_numbers(&w, values, (int)count);
  handle *h = new_handle(TEXT);
  h->text = w.text;
  return h;
}
void *aclCreateIntArray(const int64_t *values, uint64_t count) { return numbers(values, count); }
void *aclCreateBoolArray(const uint8_t *values, uint64_t count) {
  int64_t wide[64];
  for (uint64_t i = 0; i < count && i < 64; i++) wide[i] = values[i];
  return numbers(wide, count < 64 ? count : 64);
}
void *aclCreateFloatArray(const float *values, uint64_t count) {
  writer w = {0};
  for (uint64_t i = 0; i < count; i++) put(&w, i ? ",%.9g" : "[%.9g", values[i]);
  put(&w, count ? "]" : "[]");
  handle *h = new_handle(TEXT);
  h->text = w.text;
  return h;
}

/* ------------------------------------------------------------------------ aclop: single operators of the graph engine */
void *aclCreateTensorDesc(int dtype, int rank, const int64_t *shape, int format) {
  return aclCreateTensor(shape, rank < 0 ? 0 : rank, dtype, NULL, 0, format, NULL, 0, NULL);
}
int aclSetTensorFormat(void *tensor, int format) { return ((handle *)tensor)->format = format, OK; }
void *aclCreateDataBuffer(void *data, size_t size) {
  handle *h = new_handle(BUFFER);
  h->data = data;
  return h;
}
int aclUpdateDataBuffer(void *buffer, void *data, size_t size) { return ((handle *)buffer)->data = data, OK; }
void *aclGetDataBufferAddr(const void *buffer) { return ((const handle *)buffer)->data; }
void *aclopCreateAttr(void) { return new_handle(ATTRIBUTES); }

static int attribute(handle *all, const char *key, char *value) {
  char *before = all->text;
  all->text = before ? text_of("%s,\"%s\":%s", before, key, value) : text_of("\"%s\":%s", key, value);
  free(before), free(value);
  return OK;
}
int aclopSetAttrInt(void *all, const char *key, int64_t value) { return attribute(all, key, text_of("%lld", (long long)value)); }
int aclopSetAttrBool(void *all, const char *key, uint8_t value) { return attribute(all, key, text_of("%s", value ? "true" : "false")); }
int aclopSetAttrFloat(void *all, const char *key, float value) { return attribute(all, key, text_of("%.9g", value)); }
int aclopSetAttrString(void *all, const char *key, const char *value) { return attribute(all, key, text_of("\"%s\"", value)); }
int aclopSetAttrDataType(void *all, const char *key, int value) { return attribute(all, key, text_of("\"%s\"", name_of(value))); }
int aclopSetAttrListInt(void *all, const char *key, int count, const int64_t *values) {
  writer w = {0};
  put_numbers(&w, values, count);
  return attribute(all, key, w.text);
}

static void put_operands(writer *w, int count, void *const *tensors, void *const *buffers) {
  for (int i = 0; i < count; i++) {
    const handle *t = as_handle((word)tensors[i]), *b = as_handle((word)buffers[i]);
    if (i) put(w, ",");
    if (t) put_tensor(w, t, b ? b->data : NULL);
    else put(w, "null");
  }
}
int aclopCompileAndExecute(const char *name, int inputs, void *const *in, void *const *in_data, int outputs,
                           void *const *out, void *const *out_data, const void *attributes, int engine, int compile,
                           const char *path, void *stream) {
  const handle *all = as_handle((word)attributes);
  writer w = {0};
  put(&w, "{\"aclop\":\"%s\",\"in\":[", name);
  put_operands(&w, inputs, in, in_data);
  put(&w, "],\"out\":[");
  put_operands(&w, outputs, out, out_data);
  put(&w, "],\"attr\":{%s}}", all && all->text ? all->text : "");
  launch(w.text);
  free(w.text);
  return OK;
}
int aclopCompileAndExecuteV2(const char *name, int inputs, void *const *in, void *const *in_data, int outputs,
                             void *const *out, void *const *out_data, const void *attributes, int engine, int compile,
                             const char *path, void *stream) {
  return aclopCompileAndExecute(name, inputs, in, in_data, outputs, out, out_data, attributes, engine, compile, path, stream);
}

/* ------------------------------------------------------------------------------------ the device: memory of this process */
static int reserve(void **made, size_t size) {
  *made = mmap(0, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *made == MAP_FAILED ? REFUSED : OK;
}
static int made(void **out) { return *out = new_handle(PLAIN), OK; }

const char *aclrtGetSocName(void) { const char *name = getenv("STAND_IN_SOC"); return name ? name : "Ascend910B3"; }
const char *aclGetRecentErrMsg(void) { return ""; }
int aclrtGetDeviceCount(uint32_t *count) { return *count = 1, OK; }
int aclrtGetDevice(int *device) { return *device = 0, OK; }
int aclrtGetMemInfo(int kind, size_t *left, size_t *total) { return *left = 60ull << 30, *total = 64ull << 30, OK; }
int aclrtMalloc(void **out, size_t size, int policy) { return reserve(out, size); }
int aclrtMallocAlign32(void **out, size_t size, int policy) { return reserve(out, size); }
int aclrtMallocHost(void **out, size_t size) { return reserve(out, size); }
int aclrtReserveMemAddress(void **out, size_t size, size_t align, void *at, uint64_t flags) { return reserve(out, size); }
int aclrtMallocPhysical(void **out, size_t size, void *properties, uint64_t flags) { return made(out); }
static int copy(const char *name, void *to, const void *from, size_t size, int kind) {
  static const char *ways[] = {"host to host", "host to device", "device to host", "within the device"};
  char line[160];
  const char *way = kind >= 0 && kind < 4 ? ways[kind] : "?";
  snprintf(line, sizeof line, "{\"call\":\"%s\",\"bytes\":%zu,\"way\":\"%s\"}", name, size, way);
  say(line);
  memcpy(to, from, size);
  return OK;
}
int aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int kind) { return copy("aclrtMemcpy", to, from, size, kind); }
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int kind, void *stream) {
  return copy("aclrtMemcpyAsync", to, from, size, kind);
}
int aclrtMemset(void *to, size_t room, int value, size_t size) { return memset(to, value, size), OK; }
int aclrtMemsetAsync(void *to, size_t room, int value, size_t size, void *stream) { return memset(to, value, size), OK; }
int aclrtCreateStream(void **out) { return made(out); }
int aclrtCreateStreamWithConfig(void **out, uint32_t priority, uint32_t flags) { return made(out); }
int aclrtCreateContext(void **out, int device) { return made(out); }
int aclrtGetCurrentContext(void **out) { static void *context; if (!context) made(&context); return *out = context, OK; }
int aclrtCreateEvent(void **out) { return made(out); }
int aclrtCreateEventWithFlag(void **out, uint32_t flags) { return made(out); }
int aclrtCreateEventExWithFlag(void **out, uint32_t flags) { return made(out); }
int aclrtQueryEventStatus(void *event, int *status) { return *status = 1, OK; }
int aclrtEventElapsedTime(float *ms, void *from, void *to) { return *ms = 1, OK; }
int aclrtGetStreamId(void *stream, int *id) { return *id = 1, OK; }
int aclrtProcessReport(int milliseconds) { usleep(100000); return 107013; /* nothing to report */ }
int aclSetCompileopt(int option, const char *value) {
  char line[256];
  snprintf(line, sizeof line, "{\"option\":%d,\"value\":\"%s\"}", option, value);
  say(line);
  return OK;
}

#include "stand_ins.h"
