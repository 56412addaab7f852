/* A decoder-only transformer on a processor: its values, and the kernels that an instruction set brings. */
#ifndef SLIPSTREAM_LLM_H
#define SLIPSTREAM_LLM_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { BLOCK = 32, PANEL = 16, KV_TOKENS = 32, WIDE = 512 };
/* columns of a quantised block; rows of a panel; tokens of a KV block; tokens of one pass, at most */

/* How a matrix lies in memory. F32 to Q8_0: row by row, as in the file. The others: panels of PANEL rows, so that one
 * lane is one row and no sum goes across lanes; a panel's blocks follow each other by columns. Of one block of 32
 * columns, "q" is 4 x 64 bytes: byte 4 r + i of the k-th is row r, column 4 k + i (low bits) and 16 + 4 k + i (high).
 *   Q4_0, a block: half d[16]; q                                                              value (q - 8) d
 *   Q5_0, a block: half d[16]; fifth bits 8 x u64, bit 4 r + i of the g-th is column 4 g + i; q  value (q - 16) d
 *   Q4_K, 8 blocks: half d[16], dmin[16]; 8 x {u8 scale[16], min[16]; q}                      value q d scale - dmin min
 *   Q5_K, 8 blocks: the same with fifth bits before q
 *   Q6_K, 8 blocks: half d[16]; 8 x {s8 scale[2][16], of 16 columns each; q; upper two bits 2 x 64 bytes: bits 2 k of
 *                   byte 4 r + i of the h-th are column 16 h + 4 k + i}                        value (q - 32) d scale
 * PACKED, a block: f32 d[16]; 8 x 64 bytes: byte 4 r + i of the g-th is column 4 g + i, as vb_signed. Made of Q8_0 rows
 * on the way, never kept. */
enum { PACKED_BYTES = 64 + 512, GROUP_BYTES = 512 << 10 }; /* of a PACKED block; of panels that go through the cache together */
enum Form { F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K, PACKED, FORMS };

struct Matrix {
    const uint8_t *data;
    size_t stride; /* bytes from row to row, or from panel to panel */
    int form, rows, cols;
};

/* What is multiplied, for some tokens: as floats, and for quantised matrices in blocks of 32. Behind each array another
 * 512 bytes can be read. */
struct Input {
    float *f;       /* (tokens, cols) */
    int8_t *q;      /* (tokens, cols), -127 to 127 */
    float *scale;   /* (tokens, cols / 32) */
    int32_t *sums;  /* (tokens, cols / 16), of q */
    int cols;
};

/* One KV block: KV_TOKENS positions, in columns with a cell for each; for each layer and KV head, by form:
 *   F16    K (head_dim, KV_TOKENS) and V (KV_TOKENS, head_dim), in halves
 *   Q8_0   K s8 (head_dim / 4, KV_TOKENS, 4), half d (head_dim / 32, KV_TOKENS); V s8 (KV_TOKENS, head_dim), half d
 *          (head_dim / 32, KV_TOKENS); what 32 dimensions of one token are worth is s8 times their d
 * A token's cells are final when they are written, and full blocks do not change any more. */
typedef uint8_t *KvBlock;

struct Attention {
    const float *q;         /* (tokens, ldq): the query heads of this KV head from column 0 on, scaled */
    float *out;             /* (tokens, ldq), likewise */
    long ldq;
    const KvBlock *blocks;
    size_t at;              /* offset of this layer and head in a block */
    int form;               /* of the blocks: F16 or Q8_0, with which the queries are quantised, too */
    int head_dim, group;    /* query heads that share the KV head */
    int tokens, position;   /* of the first token */
    int window, sinks;      /* a token sees the last `window` positions and the first `sinks`; 0: all */
    float *scores;          /* scratch, SCORE_ROWS x (positions, rounded up to KV_TOKENS) */
};

enum { SCORE_ROWS = 8 };

struct Kernels {
    const char *name;
    void (*quantise)(struct Input *x, int first, int count);
    void (*norm)(float *y, const float *x, const float *weight, int n, float eps);
    void (*gate)(float *gate, const float *up, long n); /* gate = silu(gate) * up */
    void (*multiply)(const struct Matrix *m, int panel, int panels, const struct Input *x, int tokens, float *y,
                     long ldy, uint8_t *scratch);
    /* scratch: GROUP_BYTES, or cols / BLOCK * PACKED_BYTES where that is more */
    void (*attend)(const struct Attention *a);
    void (*store_halves)(uint16_t *to, const float *from, long n);
    void (*load_row)(float *to, const uint8_t *row, int form, int n); /* of F32, F16, BF16 */
    double (*softmax)(float *x, long n, float scale); /* x = exp(scale (x - max)); the sum */
};

extern const struct Kernels kernels_scalar, kernels_avx2, kernels_avx512, kernels_neon, kernels_dotprod, kernels_i8mm;

/* The best for this processor, or the one of that name; NULL: unknown, or it cannot run here. */
const struct Kernels *llm_kernels(const char *name);

/* Threads that wait for work: they spin for a moment, then sleep, so that an idle session costs nothing. */
struct Pool;
struct Pool *pool_new(int threads); /* the caller is one of them; NULL: no memory, or no thread */
void pool_free(struct Pool *pool);
int pool_threads(const struct Pool *pool);
/* Calls work(context, chunk, thread) for each chunk from 0 on, in any order, on any thread; returns when all are done.
 * When *stop is set, chunks that did not begin are left out. */
typedef void (*Work)(void *context, int chunk, int thread);
void pool_run(struct Pool *pool, Work work, void *context, int chunks, const atomic_int *stop);

/* Bytes of a matrix in its form in memory, and its stride; 0: cols do not fit the form. */
size_t form_bytes(int form, long rows, long cols, size_t *stride);
/* Rows as in the file -> panels; panel by panel, so that threads can share it. */
void form_pack(int form, const uint8_t *rows, size_t row_bytes, uint8_t *to, int panel, int n_rows, int cols);
/* One row as floats, from the file's form. */
void form_row(int form, const uint8_t *row, int cols, float *to);
size_t form_row_bytes(int form, long cols);

struct Layer {
    struct Matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm;
    const float *q_bias, *k_bias, *v_bias;   /* NULL: none */
    const float *q_norm, *k_norm;            /* (head_dim), NULL: none */
    int window, sinks;
};

struct Model {
    int layers, embd, heads, kv_heads, head_dim, ff, vocabulary, rope_dims, neox;
    float eps, attention_factor;
    const double *frequencies;  /* (rope_dims / 2) */
    struct Layer *layer;
    const float *output_norm;
    struct Matrix output;
    const uint8_t *embedding;   /* rows as in the file */
    int embedding_form;
    size_t embedding_bytes;     /* of a row */
};

/* Working memory for passes of at most `tokens`; one per session that computes at a time. */
struct Scratch;
struct Scratch *scratch_new(const struct Model *m, const struct Pool *pool, int tokens, int context);
void scratch_free(struct Scratch *s);
size_t scratch_bytes(const struct Scratch *s);

size_t kv_block_bytes(const struct Model *m, int form);
/* The cells of `n` tokens from slot `first` on, column by column: out of a block, and into one. kv_block_bytes /
 * KV_TOKENS bytes a token. */
void kv_take(const struct Model *m, int form, const uint8_t *block, int first, int n, uint8_t *rows);
void kv_put(const struct Model *m, int form, uint8_t *block, int first, int n, const uint8_t *rows);

/* One pass: `tokens` follow `position` tokens whose KV is in `blocks` of `form`, with room for theirs. The logits of the last
 * `wanted` tokens go to `logits` (wanted, vocabulary). Returns 0, or -1 if *stop was set: then KV from `position` on is
 * worth nothing. */
int model_pass(const struct Model *m, const struct Kernels *k, struct Pool *pool, struct Scratch *s,
               const KvBlock *blocks, int form, int position, const int32_t *tokens, int n, int wanted, float *logits,
               const atomic_int *stop);

/* How the next token is chosen, see model.pyi. */
struct Sampling {
    float temperature, top_p, min_p, penalty;
    int top_k, n_recent;
    const int32_t *recent;
    const uint8_t *mask; /* one bit a token, set: allowed; NULL: all are */
};

struct Candidate {
    float weight;
    int token;
};

/* The token, -1 if none is allowed; `work` (vocabulary) and `heap` (vocabulary) are scratch. */
int sample_token(const struct Kernels *k, const float *logits, int vocabulary, const struct Sampling *s, uint64_t *random,
                 float *work, struct Candidate *heap);
/* ln of the sum of e^logit. */
double log_total(const struct Kernels *k, const float *logits, int vocabulary, float *work);
/* Two 64-bit sums that name `n` bytes, n a multiple of 8; fast, not against an adversary. */
void block_digest(const uint8_t *data, size_t n, uint64_t out[2]);
/* Seconds that reading `n` bytes takes, a multiple of 1 MiB, at an address that is one of 8. */
double stream_read(struct Pool *pool, const uint8_t *data, size_t n);

#endif
