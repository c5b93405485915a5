/* The inner loops of scoring: id PNGs and id maps to runs of equal ids and back, and runs to shared pixels.

   Plain C99 without a library, called through ctypes (panbench/panoptic/native.py), which lets other threads work meanwhile.
   Compiled when a wheel is built (hatch_build.py). Without it panbench/panoptic/idmap.py does the same with NumPy and
   OpenCV; tests compare the two.

   Masks are flat, so nearly all residuals of a filtered PNG are zero: each filter has a shortcut for blocks of pixels that
   keep their neighbour's value. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* The hash of this file that the library was compiled from: native.py refuses a library of another version. */
#ifndef IDMAP_SOURCE
#define IDMAP_SOURCE 0
#endif
EXPORT const uint64_t idmap_source = IDMAP_SOURCE;

/* Bytes compared in one step: 8 RGB or 6 RGBA pixels. */
#define BLOCK 24

static inline int first_set(uint64_t a, uint64_t b, uint64_t c)
{
    if (!(a | b | c))
        return BLOCK;
    return a ? __builtin_ctzll(a) / 8 : b ? 8 + __builtin_ctzll(b) / 8 : 16 + __builtin_ctzll(c) / 8;
}

/* The number of zero bytes before the first nonzero one of the BLOCK bytes at p. */
static inline int zeros(const uint8_t *p)
{
    uint64_t a, b, c;
    memcpy(&a, p, 8), memcpy(&b, p + 8, 8), memcpy(&c, p + 16, 8);
    return first_set(a, b, c);
}

/* The number of equal bytes before the first different one of the BLOCK bytes at p and q. */
static inline int equals(const uint8_t *p, const uint8_t *q)
{
    uint64_t a, b, c, d, e, f;
    memcpy(&a, p, 8), memcpy(&b, p + 8, 8), memcpy(&c, p + 16, 8);
    memcpy(&d, q, 8), memcpy(&e, q + 8, 8), memcpy(&f, q + 16, 8);
    return first_set(a ^ d, b ^ e, c ^ f);
}

/* BLOCK bytes of one pixel's colour. */
struct paint {
    uint64_t words[3];
};

static inline struct paint paint_of(const uint8_t *pixel, int bpp)
{
    if (bpp == 3) {
        uint64_t v = pixel[0] | pixel[1] << 8 | (uint64_t)pixel[2] << 16;
        return (struct paint){{v | v << 24 | v << 48, v >> 16 | v << 8 | v << 32 | v << 56, v >> 8 | v << 16 | v << 40}};
    }
    uint32_t v;
    memcpy(&v, pixel, 4);
    uint64_t word = (uint64_t)v << 32 | v;
    return (struct paint){{word, word, word}};
}

/* The filters. residual: n bytes; row, above: n bytes with BLOCK bytes before (zeros) and after (anything), so that the
   first pixel has a neighbour and blocks may run over the end. */

static inline void undo_sub(uint8_t *row, const uint8_t *residual, int n, int bpp)
{
    for (int i = 0; i < n;) {
        struct paint paint = paint_of(row + i - bpp, bpp);
        int kept = BLOCK;
        for (; kept == BLOCK && i + BLOCK <= n; i += kept) {
            kept = zeros(residual + i) / bpp * bpp;
            memcpy(row + i, paint.words, BLOCK);
        }
        for (int end = i < n ? i + bpp : n; i < end; i++)
            row[i] = residual[i] + row[i - bpp];
    }
}

static inline void undo_up(uint8_t *restrict row, const uint8_t *restrict residual, const uint8_t *restrict above, int n)
{
    for (int i = 0; i < n; i++)
        row[i] = residual[i] + above[i];
}

static inline void undo_average(uint8_t *row, const uint8_t *residual, const uint8_t *above, int n, int bpp)
{
    for (int i = 0; i < n; i++)
        row[i] = residual[i] + (row[i - bpp] + above[i]) / 2;
}

static inline uint8_t paeth(int a, int b, int c)
{
    int pa = abs(b - c), pb = abs(a - c), pc = abs(a + b - 2 * c);
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

static inline void undo_paeth(uint8_t *row, const uint8_t *residual, const uint8_t *above, int n, int bpp)
{
    for (int i = 0; i < n;) {
        if (i + BLOCK <= n) {
            int kept = zeros(residual + i) / bpp * bpp;
            if (kept && memcmp(row + i - bpp, above + i - bpp, bpp) == 0) {
                /* Left equals above-left: the predictor is the pixel above, and stays so. */
                memcpy(row + i, above + i, BLOCK);
                i += kept;
                continue;
            }
            if (kept) {
                int flat = equals(above + i, above + i - bpp) / bpp * bpp;
                if (flat) {
                    /* Above equals above-left: the predictor is the pixel to the left, and stays so. */
                    struct paint paint = paint_of(row + i - bpp, bpp);
                    memcpy(row + i, paint.words, BLOCK);
                    i += kept < flat ? kept : flat;
                    continue;
                }
            }
        }
        for (int end = i + bpp; i < end; i++)
            row[i] = residual[i] + paeth(row[i - bpp], above[i], above[i - bpp]);
    }
}

static inline int32_t id_of(const uint8_t *pixel)
{
    return pixel[0] | pixel[1] << 8 | pixel[2] << 16;
}

static inline int64_t to_runs(const uint8_t *raw, int32_t height, int32_t width, int bpp, uint8_t *row, uint8_t *above,
                              int32_t *ends, int32_t *ids, int64_t capacity)
{
    int n = width * bpp;
    int64_t runs = 0;
    int32_t id = -1;
    for (int32_t y = 0; y < height; y++, raw += n + 1) {
        const uint8_t *residual = raw + 1;
        switch (raw[0]) {
        case 0: memcpy(row, residual, n); break;
        case 1: undo_sub(row, residual, n, bpp); break;
        case 2: undo_up(row, residual, above, n); break;
        case 3: undo_average(row, residual, above, n, bpp); break;
        case 4: undo_paeth(row, residual, above, n, bpp); break;
        default: return -1;
        }
        int32_t first = y * width;
        for (int i = 0; i < n;) {
            int32_t here = id_of(row + i);
            if (here != id) {
                if (id >= 0) {
                    if (runs + 1 >= capacity)
                        return -2;
                    ends[runs] = first + i / bpp;
                    ids[runs++] = id;
                }
                id = here;
            }
            int kept;
            for (i += bpp; i + BLOCK <= n && (kept = equals(row + i, row + i - bpp)); i += kept / bpp * bpp)
                if (kept < BLOCK) {
                    i += kept / bpp * bpp;
                    break;
                }
        }
        uint8_t *finished = row;
        row = above;
        above = finished;
    }
    ends[runs] = height * width;
    ids[runs++] = id;
    return runs;
}

/* Lists the runs of equal ids of an 8-bit PNG, in scan order, across rows.

   raw: its inflated pixels: height rows of one filter byte and width * bpp bytes; bpp is 3 (RGB) or 4 (RGBA, alpha ignored)
   ends, ids: room for `capacity` runs: the pixel after the last of each run, counted through the image, and its id
   Returns how many runs there are, -1 for an unknown filter, -2 when the capacity (or memory) does not suffice. */
EXPORT int64_t png_runs(const uint8_t *raw, int32_t height, int32_t width, int32_t bpp, int32_t *ends, int32_t *ids,
                        int64_t capacity)
{
    size_t room = (size_t)width * bpp + 2 * BLOCK;
    uint8_t *rows = calloc(2, room);
    if (!rows)
        return -2;
    uint8_t *row = rows + BLOCK, *above = rows + room + BLOCK;
    /* Called with constants, so that each kind of pixel gets a loop of its own. */
    int64_t runs = bpp == 3 ? to_runs(raw, height, width, 3, row, above, ends, ids, capacity)
                            : to_runs(raw, height, width, 4, row, above, ends, ids, capacity);
    free(rows);
    return runs;
}

/* The runs of an id map of n > 0 pixels; otherwise as png_runs. */
EXPORT int64_t map_runs(const int32_t *map, int64_t n, int32_t *ends, int32_t *ids, int64_t capacity)
{
    int64_t runs = 0;
    for (int64_t i = 1; i < n;) {
        if (i + 6 <= n && equals((const uint8_t *)(map + i), (const uint8_t *)(map + i - 1)) == BLOCK) {
            i += 6;
            continue;
        }
        if (map[i] != map[i - 1]) {
            if (runs + 1 >= capacity)
                return -2;
            ends[runs] = (int32_t)i;
            ids[runs++] = map[i - 1];
        }
        i++;
    }
    ends[runs] = (int32_t)n;
    ids[runs++] = map[n - 1];
    return runs;
}

/* Writes runs as an id map, which has room for the end of the last. */
EXPORT void spread_runs(const int32_t *ends, const int32_t *ids, int64_t runs, int32_t *map)
{
    int32_t i = 0;
    for (int64_t run = 0; run < runs; run++)
        for (int32_t id = ids[run]; i < ends[run]; i++)
            map[i] = id;
}

struct entry {
    uint64_t key;
    int64_t pixels; /* 0: free */
};

struct table {
    struct entry *entries;
    uint64_t mask;
    int64_t used;
};

static inline struct entry *find(struct table *table, uint64_t key)
{
    uint64_t at = (key * UINT64_C(0x9E3779B97F4A7C15)) >> 20 & table->mask;
    while (table->entries[at].pixels && table->entries[at].key != key)
        at = (at + 1) & table->mask;
    return &table->entries[at];
}

static int grow(struct table *table)
{
    struct table larger = {NULL, table->mask * 2 + 1, table->used};
    larger.entries = calloc(larger.mask + 1, sizeof *larger.entries);
    if (!larger.entries)
        return 0;
    for (uint64_t i = 0; i <= table->mask; i++)
        if (table->entries[i].pixels)
            *find(&larger, table->entries[i].key) = table->entries[i];
    free(table->entries);
    *table = larger;
    return 1;
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = ((const struct entry *)a)->key, y = ((const struct entry *)b)->key;
    return (x > y) - (x < y);
}

/* Counts the pixels that each pair of ids shares, from the runs of two images of one size.

   keys, pixels: room for `capacity` pairs: gt_id << 32 | pred_id, ascending, and how many pixels
   Returns how many pairs there are, of which the first `capacity` are written, or -2 when there is no memory. */
EXPORT int64_t count_run_pairs(const int32_t *gt_ends, const int32_t *gt_ids, int64_t gt_runs, const int32_t *pred_ends,
                               const int32_t *pred_ids, int64_t pred_runs, uint64_t *keys, int64_t *pixels,
                               int64_t capacity)
{
    struct table table = {calloc(512, sizeof(struct entry)), 511, 0};
    if (!table.entries)
        return -2;
    int64_t start = 0;
    for (int64_t i = 0, j = 0; i < gt_runs && j < pred_runs;) {
        int64_t end = gt_ends[i] < pred_ends[j] ? gt_ends[i] : pred_ends[j];
        uint64_t key = (uint64_t)(uint32_t)gt_ids[i] << 32 | (uint32_t)pred_ids[j];
        struct entry *entry = find(&table, key);
        if (!entry->pixels) {
            if (2 * (table.used + 1) > (int64_t)table.mask) {
                if (!grow(&table)) {
                    free(table.entries);
                    return -2;
                }
                entry = find(&table, key);
            }
            entry->key = key;
            table.used++;
        }
        entry->pixels += end - start;
        start = end;
        i += gt_ends[i] == end;
        j += pred_ends[j] == end;
    }
    int64_t n = 0;
    for (uint64_t k = 0; k <= table.mask; k++)
        if (table.entries[k].pixels)
            table.entries[n++] = table.entries[k];
    qsort(table.entries, n, sizeof *table.entries, by_key);
    for (int64_t k = 0; k < n && k < capacity; k++) {
        keys[k] = table.entries[k].key;
        pixels[k] = table.entries[k].pixels;
    }
    free(table.entries);
    return n;
}
