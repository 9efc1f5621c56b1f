/* A CUDA driver without a GPU: "device memory" is ordinary memory that this library gave out.
 *
 * It has what kvikio's compatibility mode calls, and the few calls the tests make themselves.
 * Streams and events are empty, because every copy is done when the call returns. Copies are
 * checked and counted: one that leaves its device allocation fails as it would on a GPU, and
 * the count proves that bytes came through bounce buffers. kvikio loads every name at its start
 * and calls few of them; those it has no reason to call answer CUDA_ERROR_NOT_SUPPORTED.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define OK 0
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define ALREADY_REGISTERED 712
#define NOT_REGISTERED 713
#define NOT_SUPPORTED 801

#define POINTER_CONTEXT 1
#define POINTER_MEMORY_TYPE 2
#define POINTER_DEVICE_ORDINAL 9
#define MEMORY_HOST 1
#define MEMORY_DEVICE 2

#ifndef INIT_RESULT /* what cuInit answers: a driver without a device says so there */
#define INIT_RESULT OK
#endif

#define ALLOCATIONS_MAX 1024
#define DRIVER_VERSION 12080

typedef int result;
typedef uintptr_t address;

struct allocation {
    address start;
    size_t size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct allocation device_memory[ALLOCATIONS_MAX], pinned[ALLOCATIONS_MAX];
static uint64_t bytes_to_device, copies_to_device, bytes_to_host;
static int context_object, stream_object, event_object;
static __thread void *current_context;
static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;

static struct allocation find(address at) {
    struct allocation found = {0, 0};
    pthread_mutex_lock(&lock);
    for (int i = 0; i < ALLOCATIONS_MAX; i++)
        if (device_memory[i].start && at - device_memory[i].start < device_memory[i].size)
            found = device_memory[i];
    pthread_mutex_unlock(&lock);
    return found;
}

static int fits(struct allocation memory, address at, size_t size) {
    return !memory.start || size <= memory.start + memory.size - at;
}

static result copy(address target, address source, size_t size) {
    struct allocation to = find(target), from = find(source);
    if (!fits(to, target, size) || !fits(from, source, size)) return INVALID_VALUE;
    pthread_rwlock_rdlock(&gate);
    memcpy((void *)target, (void *)source, size);
    pthread_rwlock_unlock(&gate);
    if (to.start) {
        __atomic_fetch_add(&bytes_to_device, size, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&copies_to_device, 1, __ATOMIC_SEQ_CST);
    } else if (from.start) {
        __atomic_fetch_add(&bytes_to_host, size, __ATOMIC_SEQ_CST);
    }
    return OK;
}

/* For the tests: what was copied to the device, and back, since the library was loaded. */
uint64_t standin_bytes_to_device(void) {
    return __atomic_load_n(&bytes_to_device, __ATOMIC_SEQ_CST);
}
uint64_t standin_copies_to_device(void) {
    return __atomic_load_n(&copies_to_device, __ATOMIC_SEQ_CST);
}
uint64_t standin_bytes_to_host(void) { return __atomic_load_n(&bytes_to_host, __ATOMIC_SEQ_CST); }

/* For the tests: how much host memory is pinned. */
uint64_t standin_pinned_bytes(void) {
    uint64_t bytes = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < ALLOCATIONS_MAX; i++) bytes += pinned[i].start ? pinned[i].size : 0;
    pthread_mutex_unlock(&lock);
    return bytes;
}

/* For the tests: a device that stalls. One thread calls both. */
void standin_stall(void) { pthread_rwlock_wrlock(&gate); }
void standin_go_on(void) { pthread_rwlock_unlock(&gate); }

/* The driver and the one device. */
result cuInit(unsigned flags) { return INIT_RESULT; }
result cuDriverGetVersion(int *version) { *version = DRIVER_VERSION; return OK; }
result cuDeviceGetCount(int *count) { *count = 1; return OK; }
result cuDeviceGet(int *device, int ordinal) {
    *device = 0;
    return ordinal == 0 ? OK : INVALID_VALUE;
}
result cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 0; return OK; }
result cuGetErrorName(result error, const char **name) { *name = "STANDIN_ERROR"; return OK; }
result cuGetErrorString(result error, const char **text) {
    *text = error == INVALID_VALUE ? "invalid value" : "an error of the stand-in driver";
    return OK;
}

/* Contexts: one, the device's primary one. */
result cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &context_object;
    return OK;
}
result cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
result cuCtxCreate_v2(void **context, unsigned flags, int device) { return NOT_SUPPORTED; }
result cuCtxDestroy_v2(void *context) { return NOT_SUPPORTED; }
result cuCtxGetCurrent(void **context) { *context = current_context; return OK; }
result cuCtxGetDevice(int *device) { *device = 0; return OK; }
result cuCtxPushCurrent_v2(void *context) { current_context = context; return OK; }
result cuCtxPopCurrent_v2(void **context) {
    if (context) *context = current_context;
    current_context = NULL;
    return OK;
}

/* Memory. */
result cuMemAlloc_v2(address *given, size_t size) {
    void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    int i = 0;
    if (!memory) return OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    while (i < ALLOCATIONS_MAX && device_memory[i].start) i++;
    if (i < ALLOCATIONS_MAX) device_memory[i] = (struct allocation){(address)memory, size};
    pthread_mutex_unlock(&lock);
    if (i == ALLOCATIONS_MAX) {
        free(memory);
        return OUT_OF_MEMORY;
    }
    *given = (address)memory;
    return OK;
}
result cuMemFree_v2(address given) {
    result done = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < ALLOCATIONS_MAX; i++)
        if (given && device_memory[i].start == given) {
            device_memory[i].start = 0;
            free((void *)given);
            done = OK;
        }
    pthread_mutex_unlock(&lock);
    return done;
}
/* The driver promises no page alignment of pinned memory, so this gives none. */
result cuMemHostAlloc(void **given, size_t size, unsigned flags) {
    char *memory = aligned_alloc(4096, (size + 256 + 4095) / 4096 * 4096);
    *given = memory ? memory + 256 : NULL;
    return memory ? OK : OUT_OF_MEMORY;
}
result cuMemFreeHost(void *given) {
    free((char *)given - 256);
    return OK;
}
/* Pages are pinned once, and unpinned by the address they were pinned by, as on a GPU. */
static result pin(address before, struct allocation after, result otherwise) {
    int i = 0;
    pthread_mutex_lock(&lock);
    while (i < ALLOCATIONS_MAX && pinned[i].start != before) i++;
    if (i < ALLOCATIONS_MAX) pinned[i] = after;
    pthread_mutex_unlock(&lock);
    return i < ALLOCATIONS_MAX ? OK : otherwise;
}
result cuMemHostRegister_v2(void *memory, size_t size, unsigned flags) {
    struct allocation wanted = {(address)memory, size};
    if (pin((address)memory, wanted, NOT_REGISTERED) == OK) return ALREADY_REGISTERED;
    return pin(0, wanted, OUT_OF_MEMORY);
}
result cuMemHostUnregister(void *memory) {
    struct allocation none = {0, 0};
    return pin((address)memory, none, NOT_REGISTERED);
}
result cuMemGetAddressRange_v2(address *start, size_t *size, address at) {
    struct allocation memory = find(at);
    if (!memory.start) return INVALID_VALUE;
    if (start) *start = memory.start;
    if (size) *size = memory.size;
    return OK;
}

/* What a pointer points at. Memory that this library did not give out is the host's. */
result cuPointerGetAttribute(void *value, int attribute, address at) {
    int is_device = find(at).start != 0;
    switch (attribute) {
    case POINTER_MEMORY_TYPE:
        *(unsigned *)value = is_device ? MEMORY_DEVICE : MEMORY_HOST;
        return OK;
    case POINTER_CONTEXT:
        *(void **)value = is_device ? &context_object : NULL;
        return is_device ? OK : INVALID_VALUE;
    case POINTER_DEVICE_ORDINAL:
        *(int *)value = is_device ? 0 : -2;
        return OK;
    default:
        return NOT_SUPPORTED;
    }
}
result cuPointerGetAttributes(unsigned count, int *attributes, void **values, address at) {
    for (unsigned i = 0; i < count; i++)
        cuPointerGetAttribute(values[i], attributes[i], at);
    return OK;
}

/* Copies, done when the call returns. */
result cuMemcpyDtoH_v2(void *target, address source, size_t size) {
    return find(source).start ? copy((address)target, source, size) : INVALID_VALUE;
}
result cuMemcpyHtoD_v2(address target, const void *source, size_t size) {
    return find(target).start ? copy(target, (address)source, size) : INVALID_VALUE;
}
result cuMemcpyHtoDAsync_v2(address target, const void *source, size_t size, void *stream) {
    return cuMemcpyHtoD_v2(target, source, size);
}
result cuMemcpyDtoHAsync_v2(void *target, address source, size_t size, void *stream) {
    return cuMemcpyDtoH_v2(target, source, size);
}
result cuMemcpyAsync(address target, address source, size_t size, void *stream) {
    return copy(target, source, size);
}
result cuMemcpyBatchAsync(address *targets, address *sources, size_t *sizes, size_t count,
                          void *attributes, size_t *firsts, size_t attribute_count,
                          size_t *failed, void *stream) {
    for (size_t i = 0; i < count; i++)
        if (copy(targets[i], sources[i], sizes[i]) != OK) {
            if (failed) *failed = i;
            return INVALID_VALUE;
        }
    return OK;
}

/* Streams and events, with nothing left to wait for. */
result cuStreamCreate(void **stream, unsigned flags) { *stream = &stream_object; return OK; }
result cuStreamDestroy_v2(void *stream) { return OK; }
result cuStreamSynchronize(void *stream) { return OK; }
result cuEventCreate(void **event, unsigned flags) { *event = &event_object; return OK; }
result cuEventDestroy_v2(void *event) { return OK; }
result cuEventRecord(void *event, void *stream) { return OK; }
result cuEventQuery(void *event) { return OK; }
result cuEventSynchronize(void *event) { return OK; }
result cuLaunchHostFunc(void *stream, void (*call)(void *), void *argument) {
    call(argument);
    return OK;
}
