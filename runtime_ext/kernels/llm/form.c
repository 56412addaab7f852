/* Matrices as files have them -> as the kernels want them. The file's forms are those of GGML's k-quants and of the
 * older blocks of 32 (github.com/ggml-org/ggml, docs/gguf.md and ggml-common.h: bytes and bits, nothing else). */
#include "lanes.h"
#include "llm.h"

static const struct { int block, bytes; } FILE_FORM[FORMS] = {
    [F32] = {1, 4}, [F16] = {1, 2}, [BF16] = {1, 2}, [Q8_0] = {32, 34}, [Q4_0] = {32, 18}, [Q5_0] = {32, 22},
    [Q4_K] = {256, 144}, [Q5_K] = {256, 176}, [Q6_K] = {256, 210}, [PACKED] = {32, 0},
};

static const size_t PANEL_BYTES[FORMS] = { /* of a file's block, 16 rows */
    [Q4_0] = 288, [Q5_0] = 352, [Q4_K] = 64 + 8 * 288, [Q5_K] = 64 + 8 * 352, [Q6_K] = 32 + 8 * 416,
};

size_t form_row_bytes(int form, long cols)
{
    return cols % FILE_FORM[form].block ? 0 : (size_t)(cols / FILE_FORM[form].block) * (size_t)FILE_FORM[form].bytes;
}

size_t form_bytes(int form, long rows, long cols, size_t *stride)
{
    if (cols % FILE_FORM[form].block || form >= PACKED)
        return 0;
    if (form <= Q8_0) {
        *stride = form_row_bytes(form, cols);
        return (size_t)rows * *stride;
    }
    *stride = (size_t)(cols / FILE_FORM[form].block) * PANEL_BYTES[form];
    return (size_t)((rows + PANEL - 1) / PANEL) * *stride;
}

/* The scale and minimum of block j of a k-quant's eight, six bits each in twelve bytes. */
static void six_bits(const uint8_t *s, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *min = (uint8_t)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
}

/* Block j of a file's block as unsigned numbers: q before its zero is taken off. */
static void numbers(int form, const uint8_t *p, int j, uint8_t q[BLOCK])
{
    const uint8_t *nibbles = p + (form == Q4_0 ? 2 : 6);
    switch (form) {
    case Q4_0:
    case Q5_0:
        for (int i = 0; i < 16; i++) {
            q[i] = nibbles[i] & 15;
            q[16 + i] = nibbles[i] >> 4;
        }
        if (form == Q5_0) {
            uint32_t high = load_u32(p + 2);
            for (int i = 0; i < BLOCK; i++)
                q[i] = (uint8_t)(q[i] | ((high >> i) & 1) << 4);
        }
        break;
    case Q4_K:
    case Q5_K:
        nibbles = p + (form == Q4_K ? 16 : 48) + 32 * (j / 2);
        for (int i = 0; i < BLOCK; i++) {
            q[i] = j & 1 ? nibbles[i] >> 4 : nibbles[i] & 15;
            if (form == Q5_K)
                q[i] = (uint8_t)(q[i] | ((p[16 + i] >> j) & 1) << 4);
        }
        break;
    default: { /* Q6_K: of each 128, four 32s share bytes */
        const uint8_t *low = p + 64 * (j / 4) + 32 * (j & 1), *high = p + 128 + 32 * (j / 4);
        for (int i = 0; i < BLOCK; i++) {
            int four = (j & 3) < 2 ? low[i] & 15 : low[i] >> 4;
            q[i] = (uint8_t)(four | ((high[i] >> 2 * (j & 3)) & 3) << 4);
        }
    }
    }
}

static void put_u32(uint8_t *to, uint32_t word) { memcpy(to, &word, 4); }

/* 16 bytes of 64 a row: where the file's four words of a row of nibbles go, or of what is made of them. */
static void spread(uint8_t *to, int r, const uint32_t word[4])
{
    for (int k = 0; k < 4; k++)
        put_u32(to + 64 * k + 4 * r, word[k]);
}

/* Of 32 bytes the low or the high nibbles, as llm.h wants them: columns 16 on above columns 0 on. */
static void nibbles_of(const uint8_t *p, int high, uint32_t word[4])
{
    for (int k = 0; k < 4; k++) {
        uint32_t a = load_u32(p + 4 * k), c = load_u32(p + 16 + 4 * k);
        word[k] = high ? (a >> 4 & 0x0f0f0f0f) | (c & 0xf0f0f0f0) : (a & 0x0f0f0f0f) | (c & 0x0f0f0f0f) << 4;
    }
}

/* Bit i of `bits` is column i. */
static void put_fifth_bits(uint8_t *to, int r, uint32_t bits)
{
    for (int g = 0; g < 8; g++) {
        uint64_t word = load_u64(to + 8 * g) | (uint64_t)(bits >> 4 * g & 15) << 4 * r;
        memcpy(to + 8 * g, &word, 8);
    }
}

/* Bit j of 32 bytes. */
static uint32_t bits_of(const uint8_t *p, int j)
{
    uint32_t bits = 0;
    for (int g = 0; g < 8; g++) /* four lowest bits of bytes side by side: bit 8 i goes to 24 + i */
        bits |= ((load_u32(p + 4 * g) >> j & 0x01010101) * 0x01020408u >> 24 & 15) << 4 * g;
    return bits;
}

/* One block of the file of row r of a panel. */
static void pack_block(int form, const uint8_t *p, uint8_t *s, int r)
{
    uint32_t word[4];
    memcpy(s + 2 * r, form == Q6_K ? p + 208 : p, 2);
    if (form == Q4_0 || form == Q5_0) {
        memcpy(word, form == Q4_0 ? p + 2 : p + 6, 16);
        spread(s + (form == Q4_0 ? 32 : 96), r, word);
        if (form == Q5_0)
            put_fifth_bits(s + 32, r, load_u32(p + 2));
        return;
    }
    if (form != Q6_K)
        memcpy(s + 32 + 2 * r, p + 2, 2);
    for (int j = 0; j < 8; j++) {
        uint8_t *block = s + (form == Q6_K ? 32 + j * 416 : form == Q5_K ? 64 + j * 352 : 64 + j * 288);
        if (form == Q6_K) { /* of each 128, four 32s share bytes */
            const uint8_t *low = p + 64 * (j / 4) + 32 * (j & 1), *high = p + 128 + 32 * (j / 4);
            int shift = 2 * (j & 3);
            block[r] = p[192 + 2 * j];
            block[16 + r] = p[192 + 2 * j + 1];
            nibbles_of(low, shift >= 4, word);
            spread(block + 32, r, word);
            for (int half = 0; half < 2; half++) {
                uint32_t two = 0;
                for (int k = 0; k < 4; k++)
                    two |= (load_u32(high + 16 * half + 4 * k) >> shift & 0x03030303) << 2 * k;
                put_u32(block + 288 + 64 * half + 4 * r, two);
            }
        } else {
            six_bits(p + 4, j, block + r, block + 16 + r);
            nibbles_of(p + (form == Q4_K ? 16 : 48) + 32 * (j / 2), j & 1, word);
            spread(block + (form == Q5_K ? 96 : 32), r, word);
            if (form == Q5_K)
                put_fifth_bits(block + 32, r, bits_of(p + 16, j));
        }
    }
}

void form_pack(int form, const uint8_t *rows, size_t row_bytes, uint8_t *to, int panel, int n_rows, int cols)
{
    int n = cols / FILE_FORM[form].block, bytes = FILE_FORM[form].bytes;
    size_t super = PANEL_BYTES[form];
    int first = panel * PANEL, here = n_rows - first < PANEL ? n_rows - first : PANEL;
    int strip = (int)(16384 / super); /* what is written stays in the first cache, whatever the columns */
    to += (size_t)panel * (size_t)n * super;
    for (int b0 = 0; b0 < n; b0 += strip) {
        int end = n - b0 < strip ? n : b0 + strip;
        memset(to + (size_t)b0 * super, 0, (size_t)(end - b0) * super);
        for (int r = 0; r < here; r++) {
            const uint8_t *row = rows + (size_t)(first + r) * row_bytes;
            for (int b = b0; b < end; b++)
                pack_block(form, row + (size_t)b * (size_t)bytes, to + (size_t)b * super, r);
        }
    }
}

void form_row(int form, const uint8_t *p, int cols, float *to)
{
    if (form <= BF16) {
        kernels_scalar.load_row(to, p, form, cols);
        return;
    }
    int per = FILE_FORM[form].block / BLOCK;
    for (int b = 0; b < cols / FILE_FORM[form].block; b++, p += FILE_FORM[form].bytes)
        for (int j = 0; j < per; j++, to += BLOCK) {
            uint8_t q[BLOCK], scale, min;
            float d = half_to_float(load_u16(form == Q6_K ? p + 208 : p));
            if (form == Q8_0) {
                for (int i = 0; i < BLOCK; i++)
                    to[i] = d * (float)(int8_t)p[2 + i];
                continue;
            }
            numbers(form, p, j, q);
            if (form == Q6_K) {
                for (int i = 0; i < BLOCK; i++)
                    to[i] = d * (float)(int8_t)p[192 + 2 * j + i / 16] * (float)(q[i] - 32);
            } else if (form == Q4_0 || form == Q5_0) {
                for (int i = 0; i < BLOCK; i++)
                    to[i] = d * (float)(q[i] - (form == Q4_0 ? 8 : 16));
            } else {
                six_bits(p + 4, j, &scale, &min);
                float by = d * (float)scale, off = half_to_float(load_u16(p + 2)) * (float)min;
                for (int i = 0; i < BLOCK; i++)
                    to[i] = by * (float)q[i] - off;
            }
        }
}
