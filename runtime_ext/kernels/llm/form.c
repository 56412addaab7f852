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

static void put_nibbles(uint8_t *to, int r, const uint8_t q[BLOCK])
{
    for (int c = 0; c < 16; c++)
        to[c / 4 * 64 + 4 * r + c % 4] = (uint8_t)((q[c] & 15) | (q[16 + c] & 15) << 4);
}

static void put_fifth_bits(uint8_t *to, int r, const uint8_t q[BLOCK])
{
    for (int c = 0; c < BLOCK; c++) {
        int bit = 4 * r + c % 4;
        uint8_t *byte = to + c / 4 * 8 + bit / 8;
        *byte = (uint8_t)(*byte | (q[c] >> 4 & 1) << bit % 8);
    }
}

void form_pack(int form, const uint8_t *rows, size_t row_bytes, uint8_t *to, int panel, int n_rows, int cols)
{
    int n = cols / FILE_FORM[form].block, bytes = FILE_FORM[form].bytes, fifth = form == Q5_0 || form == Q5_K;
    size_t super = PANEL_BYTES[form];
    int first = panel * PANEL, here = n_rows - first < PANEL ? n_rows - first : PANEL;
    to += (size_t)panel * (size_t)n * super;
    memset(to, 0, (size_t)n * super);
    for (int r = 0; r < here; r++) {
        const uint8_t *p = rows + (size_t)(first + r) * row_bytes;
        for (int b = 0; b < n; b++, p += bytes) {
            uint8_t *s = to + (size_t)b * super, q[BLOCK];
            if (form == Q4_0 || form == Q5_0) {
                memcpy(s + 2 * r, p, 2);
                numbers(form, p, 0, q);
                put_nibbles(s + (fifth ? 96 : 32), r, q);
                if (fifth)
                    put_fifth_bits(s + 32, r, q);
                continue;
            }
            memcpy(s + 2 * r, form == Q6_K ? p + 208 : p, 2);
            if (form != Q6_K)
                memcpy(s + 32 + 2 * r, p + 2, 2);
            for (int j = 0; j < 8; j++) {
                numbers(form, p, j, q);
                if (form == Q6_K) {
                    uint8_t *block = s + 32 + j * 416;
                    block[r] = p[192 + 2 * j];
                    block[16 + r] = p[192 + 2 * j + 1];
                    put_nibbles(block + 32, r, q);
                    for (int c = 0; c < BLOCK; c++) {
                        uint8_t *two = block + 288 + c / 16 * 64 + 4 * r + c % 4;
                        *two = (uint8_t)(*two | q[c] >> 4 << 2 * (c % 16 / 4));
                    }
                } else {
                    uint8_t *block = s + 64 + j * (fifth ? 352 : 288);
                    six_bits(p + 4, j, block + r, block + 16 + r);
                    put_nibbles(block + (fifth ? 96 : 32), r, q);
                    if (fifth)
                        put_fifth_bits(block + 32, r, q);
                }
            }
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
