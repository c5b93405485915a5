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

/* Like posix_memalign: blocks for `free`, 0 or an error number. */
EXPORT int aligned_block(void **block, size_t alignment, size_t size)
{
    if (alignment == ALIGNMENT && size >= SMALLEST && size < PTRDIFF_MAX) {
        /* Blocks whose length, header included, is a multiple of the alignment keep their successors aligned. */
        size_t length = (size + HEADER + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT - HEADER;
        void *found = malloc(length);
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

/* Points the slots through which an object calls posix_memalign to aligned_block; those that are read-only stay. */
static int replace_in(struct dl_phdr_info *object, size_t size, void *replaced)
{
    const ElfW(Dyn) *dynamic = NULL;
    ElfW(Addr) read_only = 0, read_only_end = 0, page = (ElfW(Addr))sysconf(_SC_PAGESIZE);
    const ElfW(Rela) *slots = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    size_t bytes = 0;
    (void)size;
    if (!is_pytorch(object->dlpi_name))
        return 0;
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
        if (ELF64_R_TYPE(slots[i].r_info) != JUMP_SLOT || (slot >= read_only && slot < read_only_end))
            continue;
        if (strcmp(names + symbols[ELF64_R_SYM(slots[i].r_info)].st_name, "posix_memalign") == 0) {
            __atomic_store_n((void **)slot, (void *)aligned_block, __ATOMIC_RELEASE);
            ++*(int *)replaced;
        }
    }
    return 0;
}

/* How many of PyTorch's libraries call aligned_block from now on. */
EXPORT int replace_in_pytorch(void)
{
    int replaced = 0;
    dl_iterate_phdr(replace_in, &replaced);
    return replaced;
}

#else

EXPORT int replace_in_pytorch(void)
{
    return 0;
}

#endif
