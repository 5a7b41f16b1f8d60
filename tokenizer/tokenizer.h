/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - text to token ids and back, as a Hugging Face tokenizer.json describes it: BPE over bytes (GPT-2, Llama
 * 3, Qwen2) or over characters with byte fallback (Llama 2, Mistral). The ids equal those of the tokenizers package.
 *
 * A file that needs something else (another model, normalizer, pre-tokenizer, post-processor or decoder) is refused,
 * and the sentence names it. The file's truncation and padding do not apply: they concern batches, not documents. */
#ifndef TOKENIZER_TOKENIZER_H
#define TOKENIZER_TOKENIZER_H

#include "zero/zero.h"

/* Constant after it is opened: threads may share it. */
typedef struct zero_tokenizer zero_tokenizer_t;

/* Reads a tokenizer.json. Errors name the file. */
zero_status_t zero_tokenizer_open(zero_tokenizer_t **tokenizer, const char *path, zero_error_t *error);
/* The same from memory; name is used in errors. */
zero_status_t zero_tokenizer_parse(zero_tokenizer_t **tokenizer, const char *name, const char *text, size_t bytes,
                                   zero_error_t *error);
/* Accepts NULL. */
void zero_tokenizer_close(zero_tokenizer_t *tokenizer);

/* One more than the largest id, added tokens included. */
int64_t zero_tokenizer_size(const zero_tokenizer_t *tokenizer);
/* The id of a token, spelled as in the file. -1: there is none. */
int32_t zero_tokenizer_id(const zero_tokenizer_t *tokenizer, const char *token);

/* Ids that grow as they are appended. The caller frees at. */
typedef struct zero_ids {
    int32_t *at;
    int64_t count, room;
} zero_ids_t;

/* What one thread needs to encode: scratch memory and a cache of words, which takes 8 MiB. The tokenizer must outlive
 * it. */
typedef struct zero_encoder zero_encoder_t;

zero_status_t zero_encoder_open(zero_encoder_t **encoder, const zero_tokenizer_t *tokenizer, zero_error_t *error);
/* Accepts NULL. */
void zero_encoder_close(zero_encoder_t *encoder);
/* Appends the ids of a document. add_special: with the tokens that the post-processor puts around it, such as <s>.
 * Added tokens in the text itself are always found. Text that is not UTF-8 is ZERO_ERR_FORMAT with the offset of the
 * first wrong byte, and appends nothing. */
zero_status_t zero_encoder_encode(zero_encoder_t *encoder, const char *text, size_t bytes, bool add_special,
                                  zero_ids_t *ids, zero_error_t *error);

typedef struct zero_text {
    const char *at;
    size_t bytes;
} zero_text_t;

/* Several threads that encode many documents, and the parts of long ones. */
typedef struct zero_encoders zero_encoders_t;

zero_status_t zero_encoders_open(zero_encoders_t **encoders, const zero_tokenizer_t *tokenizer, int threads,
                                 zero_error_t *error);
/* Accepts NULL. */
void zero_encoders_close(zero_encoders_t *encoders);
/* Appends the ids of count documents in order, the same for any number of threads, and sets ends[i] to ids->count after
 * document i. An error sets *failed to the document that it concerns (-1: none), and appends nothing. */
zero_status_t zero_encoders_encode(zero_encoders_t *encoders, const zero_text_t *texts, int64_t count, bool add_special,
                                   zero_ids_t *ids, int64_t *ends, int64_t *failed, zero_error_t *error);

/* Decodes ids. The caller frees *text, which ends with a NUL after its *bytes bytes. An id without a token decodes to
 * nothing. skip_special: leaves out special tokens. */
zero_status_t zero_tokenizer_decode(const zero_tokenizer_t *tokenizer, const int32_t *ids, int64_t count,
                                    bool skip_special, char **text, size_t *bytes, zero_error_t *error);

#endif
