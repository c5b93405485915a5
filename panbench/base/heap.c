/* posix_memalign without the surplus that breaks a heap into pieces, put in the place of glibc's where PyTorch calls it.

   Loaded through ctypes by panbench/base/heap.py, compiled when a wheel is built (hatch_build.py). Without it, and with any
   other C library than glibc, PyTorch calls what it called before.

   glibc's posix_memalign(64, n) looks for a free block of n + 96 bytes and splits off what is left before and behind. A freed
   block of n bytes between two that are in use therefore never fits the next array of the same size: that one goes elsewhere,
   and a network's arrays of 1-30 MB leave holes everywhere. [glibc bug 14581; _int_memalign in malloc.c of glibc 2.36] */

#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* The hash of this file that the library was compiled from: heap.py refuses a library of another version. */
#ifndef HEAP_SOURCE
#define HEAP_SOURCE 0
#endif
EXPORT const uint64_t heap_source = HEAP_SOURCE;

#if defined(__linux__) && defined(__GLIBC__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))

#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __x86_64__
#define JUMP_SLOT R_X86_64_JUMP_SLOT
#else
#define JUMP_SLOT R_AARCH64_JUMP_SLOT
#endif

/* PyTorch's and oneDNN's alignment. */
#define ALIGNMENT 64
/* What glibc keeps before each block. */
#define HEADER 8
/* Smaller blocks do not make a heap grow. */
#define SMALLEST 4096
/* Blocks from here on lie in the region. */
#define LARGE ((size_t)1 << 20)
#define MOST_BLOCKS 4096
/* What the region grows by: most models need one, and limits of addresses (ulimit -v) count it whole. */
#define SPAN ((size_t)1 << 30)
#define MOST_SPANS 512

/* The region: addresses for large blocks alone. Each takes the first gap that it fits, so that once an image's arrays are
   freed the next image begins with the same gaps, whatever sizes came before, and what stays (parameters that are loaded
   late, kernels, positions) does not come to lie among them. Pages get memory when they are first written to. */
typedef struct {
    uintptr_t start, end;
} Span;
/* What the region consists of, the oldest first, and its blocks in use, by address. */
static Span spans[MOST_SPANS], blocks[MOST_BLOCKS];
static size_t span_count, count;
/* All spans lie between these. */
static uintptr_t lowest = UINTPTR_MAX, highest;
/* Whether PyTorch's libraries free through free_block. */
static int is_used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t rounded(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

/* The number of blocks below an address. */
static size_t below(uintptr_t address)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (blocks[middle].start < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Whether there are more addresses now, for a block of this length. Not, where the user limits them (ulimit -v). */
static int grow(size_t length)
{
    size_t bytes = rounded(length, SPAN);
    uintptr_t start;
    void *found;
    if (span_count == MOST_SPANS)
        return 0;
    found = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED)
        return 0;
    start = (uintptr_t)found;
    spans[span_count++] = (Span){start, start + bytes};
    if (start < lowest)
        __atomic_store_n(&lowest, start, __ATOMIC_RELAXED);
    if (start + bytes > highest)
        __atomic_store_n(&highest, start + bytes, __ATOMIC_RELAXED);
    return 1;
}

/* A block in the first gap of the region as it is, or NULL. */
static void *place(size_t length)
{
    for (size_t s = 0; s < span_count && count < MOST_BLOCKS; s++) {
        uintptr_t start = spans[s].start;
        size_t i = below(start);
        while (i < count && blocks[i].start < spans[s].end && blocks[i].start - start < length)
            start = blocks[i++].end;
        if ((i < count && blocks[i].start < spans[s].end) || spans[s].end - start >= length) {
            memmove(blocks + i + 1, blocks + i, (count++ - i) * sizeof *blocks);
            blocks[i] = (Span){start, start + length};
            return (void *)start;
        }
    }
    return NULL;
}

/* A large block, or NULL where the region has no place for it. */
static void *take(size_t size)
{
    size_t length = rounded(size, ALIGNMENT);
    void *found;
    pthread_mutex_lock(&lock);
    found = place(length);
    if (found == NULL && count < MOST_BLOCKS && grow(length))
        found = place(length);
    pthread_mutex_unlock(&lock);
    return found;
}

/* Whether it was a block of the region, which it is no more. */
static int release(uintptr_t block)
{
    size_t i;
    int is_ours;
    pthread_mutex_lock(&lock);
    i = below(block);
    is_ours = i < count && blocks[i].start == block;
    if (is_ours)
        memmove(blocks + i, blocks + i + 1, (--count - i) * sizeof *blocks);
    pthread_mutex_unlock(&lock);
    return is_ours;
}

/* pthread_atfork, which in some versions of glibc is no part of the library itself: a process that is forked while another
   thread holds the lock must find it open. */
extern int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void), void *library);
static void lock_region(void) { pthread_mutex_lock(&lock); }
static void unlock_region(void) { pthread_mutex_unlock(&lock); }

static void use_region(void)
{
    if (!is_used && __register_atfork(lock_region, unlock_region, unlock_region, NULL) == 0)
        __atomic_store_n(&is_used, 1, __ATOMIC_RELEASE);
}

/* Gives the memory between the region's blocks back to the system; the addresses stay. */
EXPORT void give_back_region(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    pthread_mutex_lock(&lock);
    for (size_t s = 0; s < span_count; s++) {
        uintptr_t start = spans[s].start;
        for (size_t i = below(start);; start = blocks[i++].end) {
            int is_last = i == count || blocks[i].start >= spans[s].end;
            uintptr_t first = rounded(start, page), end = (is_last ? spans[s].end : blocks[i].start) / page * page;
            if (first < end)
                madvise((void *)first, end - first, MADV_DONTNEED);
            if (is_last)
                break;
        }
    }
    pthread_mutex_unlock(&lock);
}

/* Like posix_memalign: blocks for free_block, 0 or an error number. */
EXPORT int aligned_block(void **block, size_t alignment, size_t size)
{
    if (alignment == ALIGNMENT && size >= SMALLEST && size < PTRDIFF_MAX) {
        /* Blocks whose length, header included, is a multiple of the alignment keep their successors aligned. */
        size_t length = (size + HEADER + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT - HEADER;
        void *found = size >= LARGE && __atomic_load_n(&is_used, __ATOMIC_ACQUIRE) ? take(size) : NULL;
        if (found != NULL) {
            *block = found;
            return 0;
        }
        found = malloc(length);
        if (found != NULL && (uintptr_t)found % ALIGNMENT == 0) {
            *block = found;
            return 0;
        }
        free(found);
        /* Of the same length, so that it fits the next one when it is freed. */
        size = length;
    }
    return posix_memalign(block, alignment, size);
}

/* Like free, for blocks of the region and for glibc's. */
EXPORT void free_block(void *block)
{
    /* Whoever has a block of the region sees the bounds as they were when it was made, or wider. */
    uintptr_t start = (uintptr_t)block;
    if (start < __atomic_load_n(&lowest, __ATOMIC_RELAXED) || start >= __atomic_load_n(&highest, __ATOMIC_RELAXED) ||
        !release(start))
        free(block);
}

static int is_pytorch(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    return strcmp(name, "libc10.so") == 0 || strcmp(name, "libtorch_cpu.so") == 0;
}

/* Some C libraries leave the addresses of the dynamic section relative to where the object is loaded. */
static const void *address(const struct dl_phdr_info *object, ElfW(Addr) given)
{
    return (const void *)(given < object->dlpi_addr ? given + object->dlpi_addr : given);
}

/* What was replaced, and where blocks of the region could not be freed. */
typedef struct {
    int libraries, without_free;
} Replaced;

/* Points the slots through which a library of PyTorch calls posix_memalign and free to aligned_block and free_block;
   those that are read-only stay. */
static int replace_in(struct dl_phdr_info *object, size_t size, void *given)
{
    Replaced *replaced = given;
    const ElfW(Dyn) *dynamic = NULL;
    ElfW(Addr) read_only = 0, read_only_end = 0, page = (ElfW(Addr))sysconf(_SC_PAGESIZE);
    const ElfW(Rela) *slots = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    size_t bytes = 0;
    void **to_make = NULL, **to_free = NULL;
    (void)size;
    if (!is_pytorch(object->dlpi_name))
        return 0;
    replaced->without_free++;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type == PT_DYNAMIC)
            dynamic = (const ElfW(Dyn) *)(object->dlpi_addr + part->p_vaddr);
        if (part->p_type == PT_GNU_RELRO) {
            read_only = (object->dlpi_addr + part->p_vaddr) / page * page;
            read_only_end = (object->dlpi_addr + part->p_vaddr + part->p_memsz + page - 1) / page * page;
        }
    }
    for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++) {
        if (dynamic->d_tag == DT_JMPREL)
            slots = address(object, dynamic->d_un.d_ptr);
        else if (dynamic->d_tag == DT_PLTRELSZ)
            bytes = dynamic->d_un.d_val;
        else if (dynamic->d_tag == DT_SYMTAB)
            symbols = address(object, dynamic->d_un.d_ptr);
        else if (dynamic->d_tag == DT_STRTAB)
            names = address(object, dynamic->d_un.d_ptr);
        else if (dynamic->d_tag == DT_PLTREL && dynamic->d_un.d_val != DT_RELA)
            return 0;
    }
    if (slots == NULL || symbols == NULL || names == NULL)
        return 0;
    for (size_t i = 0; i < bytes / sizeof *slots; i++) {
        ElfW(Addr) slot = object->dlpi_addr + slots[i].r_offset;
        const char *name = names + symbols[ELF64_R_SYM(slots[i].r_info)].st_name;
        if (ELF64_R_TYPE(slots[i].r_info) != JUMP_SLOT || (slot >= read_only && slot < read_only_end))
            continue;
        if (strcmp(name, "posix_memalign") == 0)
            to_make = (void **)slot;
        else if (strcmp(name, "free") == 0)
            to_free = (void **)slot;
    }
    if (to_free != NULL) {
        __atomic_store_n(to_free, (void *)free_block, __ATOMIC_RELEASE);
        replaced->without_free--;
    }
    if (to_make != NULL) {
        __atomic_store_n(to_make, (void *)aligned_block, __ATOMIC_RELEASE);
        replaced->libraries++;
    }
    return 0;
}

/* How many of PyTorch's libraries call aligned_block from now on. The region is for those whose blocks it can free:
   one library frees what another made. */
EXPORT int replace_in_pytorch(void)
{
    Replaced replaced = {0, 0};
    dl_iterate_phdr(replace_in, &replaced);
    if (replaced.libraries != 0 && replaced.without_free == 0)
        use_region();
    return replaced.libraries;
}

#else

EXPORT int replace_in_pytorch(void)
{
    return 0;
}

EXPORT void give_back_region(void) {}

#endif
