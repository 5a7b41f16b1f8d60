/* SPDX-License-Identifier: Apache-2.0 */
#include "train/chat.h"
#include "train/data_parts.h"
#include "train/grow.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- templates -------------------------------------------------------------------------------------------------- */

typedef struct template
{
    const char *name, *begin, *before_role, *after_role, *end, *after;
    const char *needs[4]; /* special tokens */
    bool trims;
}
template_t;

static const template_t templates[CHAT_TEMPLATES] = {
    [CHAT_LLAMA3] = {"llama3",
                     "<|begin_of_text|>",
                     "<|start_header_id|>",
                     "<|end_header_id|>\n\n",
                     "<|eot_id|>",
                     "",
                     {"<|start_header_id|>", "<|eot_id|>", "<|end_header_id|>", "<|begin_of_text|>"},
                     true},
    [CHAT_CHATML] =
        {"chatml", "", "<|im_start|>", "\n", "<|im_end|>", "\n", {"<|im_start|>", "<|im_end|>", NULL, NULL}, false},
};

/* The first special token of a template that the tokenizer lacks. NULL: it has all. */
static const char *missing(const zero_tokenizer_t *tokenizer, const template_t *t)
{
    for (int i = 0; i < 4 && t->needs[i] != NULL; i++)
        if (zero_tokenizer_id(tokenizer, t->needs[i]) < 0)
            return t->needs[i];
    return NULL;
}

static zero_status_t find_template(const data_t *data, const chat_options_t *o, const template_t **found,
                                   zero_error_t *error)
{
    *found = NULL;
    if (o->template >= 0) {
        const char *token = missing(o->tokenizer, &templates[o->template]);
        *found = &templates[o->template];
        return token == NULL ? ZERO_OK
                             : zero_fail(error, ZERO_ERR_ARG, "--chat is %s, but the tokenizer has no token %s",
                                         templates[o->template].name, token);
    }
    for (int i = 0; i < CHAT_TEMPLATES && *found == NULL; i++)
        if (missing(o->tokenizer, &templates[i]) == NULL)
            *found = &templates[i];
    if (*found != NULL)
        return ZERO_OK;
    return zero_fail(
        error, ZERO_ERR_ARG,
        "%s %s has conversations, but the tokenizer has neither <|start_header_id|> and <|eot_id|> (llama3) "
        "nor <|im_start|> and <|im_end|> (chatml): use the tokenizer of a chat model",
        data->option, data->name);
}

/* ---- texts ------------------------------------------------------------------------------------------------------ */

/* Bytes of the white space at text, as Python's str.isspace has it, which trims the templates' contents. 0: none. */
static size_t space_at(const char *text, size_t bytes)
{
    const unsigned char *u = (const unsigned char *)text;
    if (bytes >= 1 && (u[0] == ' ' || (u[0] >= 0x09 && u[0] <= 0x0d) || (u[0] >= 0x1c && u[0] <= 0x1f)))
        return 1;
    if (bytes >= 2 && u[0] == 0xc2 && (u[1] == 0x85 || u[1] == 0xa0))
        return 2;
    if (bytes < 3)
        return 0;
    const unsigned c = (unsigned)u[0] << 16 | (unsigned)u[1] << 8 | u[2];
    /* U+1680, U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F, U+3000 */
    return c == 0xe19a80 || (c >= 0xe28080 && c <= 0xe2808a) || c == 0xe280a8 || c == 0xe280a9 || c == 0xe280af ||
                   c == 0xe2819f || c == 0xe38080
               ? 3
               : 0;
}

static zero_text_t trimmed(zero_text_t text)
{
    for (size_t n; (n = space_at(text.at, text.bytes)) > 0; text.bytes -= n)
        text.at += n;
    for (bool more = true; more && text.bytes > 0;) {
        size_t n = 1;
        while (n < text.bytes && ((unsigned char)text.at[text.bytes - n] & 0xc0) == 0x80)
            n++;
        more = space_at(text.at + text.bytes - n, n) == n;
        text.bytes -= more ? n : 0;
    }
    return text;
}

/* ---- a block of conversations ----------------------------------------------------------------------------------- */

enum { BLOCK_MESSAGES = 4096, REASON = 256 };

typedef struct conversation {
    int64_t line, first, count; /* its messages */
} conversation_t;

typedef struct chat {
    data_t *data;
    data_file_t *file;
    const chat_options_t *o;
    const template_t *t;
    lines_t *lines;
    zero_encoders_t *encoders;
    zero_ids_t ids, head, after;   /* of a block; before an answer's text; after the end of a message */
    zero_text_t *texts;            /* (room): messages as the template writes them */
    int64_t *message_ends;         /* (room): in ids */
    bool *answers;                 /* (room) */
    conversation_t *conversations; /* (room) */
    int64_t messages, room, count, conversation_count; /* the last: of all files */
    zero_ids_t tokens;                                 /* of the file */
    uint8_t *counts;                                   /* (count_room): of all files */
    int64_t counted, count_room, end_room;
} chat_t;

static zero_status_t no_memory(const chat_t *c, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the conversations of %s '%s'", c->data->option,
                     c->file->path);
}

/* A line is wrong: fails, or leaves it out. */
static zero_status_t wrong(chat_t *c, int64_t line, const char *reason, zero_error_t *error)
{
    return lines_wrong(c->lines, c->data->option, c->file->path, line, reason, error);
}

/* Appends a message as the template writes it. */
static bool add_message(chat_t *c, const char *role, zero_text_t content)
{
    if (c->messages == c->room) {
        const int64_t room = c->room * 2 + 1024;
        if (!grow((void **)&c->texts, room, sizeof *c->texts) ||
            !grow((void **)&c->message_ends, room, sizeof *c->message_ends) ||
            !grow((void **)&c->answers, room, sizeof *c->answers) ||
            !grow((void **)&c->conversations, room, sizeof *c->conversations))
            return false;
        c->room = room;
    }
    const char *const parts[] = {c->t->before_role, role, c->t->after_role, NULL, c->t->end, c->t->after};
    size_t bytes = content.bytes;
    for (int i = 0; i < 6; i++)
        bytes += parts[i] != NULL ? strlen(parts[i]) : 0;
    char *text = malloc(bytes + 1), *at = text;
    if (text == NULL)
        return false;
    for (int i = 0; i < 6; i++) {
        const size_t n = parts[i] != NULL ? strlen(parts[i]) : content.bytes;
        memcpy(at, parts[i] != NULL ? parts[i] : content.at, n);
        at += n;
    }
    c->texts[c->messages] = (zero_text_t){text, bytes};
    c->answers[c->messages++] = strcmp(role, "assistant") == 0;
    return true;
}

/* Forgets messages from first on. */
static void drop_messages(chat_t *c, int64_t first)
{
    while (c->messages > first)
        free((char *)c->texts[--c->messages].at);
}

/* ---- lines ------------------------------------------------------------------------------------------------------ */

static zero_text_t text_of(const json_t *value)
{
    return (zero_text_t){json_string_value(value), json_string_length(value)};
}

/* Adds a message of the line. Writes what is wrong with it to reason, or "". False: no memory. */
static bool take_message(chat_t *c, const char *role, const json_t *value, int number, char reason[REASON])
{
    const bool answer = role != NULL && strcmp(role, "assistant") == 0;
    if (role == NULL || (!answer && strcmp(role, "user") != 0 && strcmp(role, "system") != 0))
        snprintf(reason, REASON, "has the role '%.40s' in message %d, but roles are system, user and assistant",
                 role != NULL ? role : "", number);
    else if (!json_is_string(value))
        snprintf(reason, REASON, "has no text \"content\" in message %d", number);
    if (reason[0] != '\0')
        return true;
    const zero_text_t content = c->t->trims ? trimmed(text_of(value)) : text_of(value);
    if (answer && content.bytes == 0)
        snprintf(reason, REASON, "has an empty answer in message %d", number);
    return reason[0] != '\0' || add_message(c, role, content);
}

static bool take_messages(chat_t *c, const json_t *object, char reason[REASON])
{
    const json_t *messages = json_object_get(object, "messages"), *prompt = json_object_get(object, "prompt"),
                 *completion = json_object_get(object, "completion");
    const int64_t first = c->messages;
    bool answered = false, room = true;
    if (messages == NULL && json_is_string(prompt) && json_is_string(completion))
        return take_message(c, "user", prompt, 1, reason) &&
               (reason[0] != '\0' || take_message(c, "assistant", completion, 2, reason));
    if (messages == NULL)
        snprintf(reason, REASON, "has neither \"messages\" nor the texts \"prompt\" and \"completion\"");
    else if (!json_is_array(messages))
        snprintf(reason, REASON, "has \"messages\" that are no array");
    for (size_t i = 0; i < json_array_size(messages) && room && reason[0] == '\0'; i++) {
        const json_t *message = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(message, "role"));
        room = take_message(c, role, json_object_get(message, "content"), (int)i + 1, reason);
    }
    for (int64_t i = first; i < c->messages; i++)
        answered = answered || c->answers[i];
    if (reason[0] == '\0' && !answered)
        snprintf(reason, REASON, "has no answer, a message of the role assistant");
    return room;
}

static zero_status_t take_line(chat_t *c, const char *text, size_t bytes, int64_t line, zero_error_t *error)
{
    json_error_t where;
    char reason[REASON] = "";
    const int64_t first = c->messages;
    if (lines_blank(text, bytes))
        return ZERO_OK;
    json_t *object = json_loadb(text, bytes, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &where);
    bool room = true;
    if (!json_is_object(object))
        snprintf(reason, REASON, "is not a JSON object%s%.160s", object == NULL ? ": " : "",
                 object == NULL ? where.text : "");
    else
        room = take_messages(c, object, reason);
    json_decref(object);
    if (room && reason[0] == '\0') {
        c->conversations[c->count++] = (conversation_t){line, first, c->messages - first};
        return ZERO_OK;
    }
    drop_messages(c, first);
    return room ? wrong(c, line, reason, error) : no_memory(c, error);
}

/* ---- tokens ----------------------------------------------------------------------------------------------------- */

static bool add_id(zero_ids_t *ids, int32_t id)
{
    if (ids->count == ids->room) {
        const int64_t room = ids->room * 2 + 1024;
        if (!grow((void **)&ids->at, room, sizeof *ids->at))
            return false;
        ids->room = room;
    }
    ids->at[ids->count++] = id;
    return true;
}

/* Appends a token to the file, and whether it counts. */
static bool add_token(chat_t *c, int32_t id, bool counts)
{
    if (c->counted == c->count_room) {
        const int64_t room = c->count_room * 2 + 4096;
        if (!grow((void **)&c->counts, room, 1))
            return false;
        c->count_room = room;
    }
    c->counts[c->counted++] = counts;
    return add_id(&c->tokens, id);
}

/* Appends a conversation to the file's tokens, or takes it back if an answer is cut away whole. */
static zero_status_t add_conversation(chat_t *c, const conversation_t *v, zero_error_t *error)
{
    const int64_t begin = c->tokens.count, counted = c->counted, T = c->o->seq_len;
    char reason[REASON] = "";
    bool room = true;
    int answer = 0;
    if (c->t->begin[0] != '\0')
        room = add_token(c, zero_tokenizer_id(c->o->tokenizer, c->t->begin), false);
    for (int64_t m = v->first; m < v->first + v->count && room; m++) {
        const int32_t *ids = c->ids.at + (m > 0 ? c->message_ends[m - 1] : 0);
        const int64_t n = c->message_ends[m] - (m > 0 ? c->message_ends[m - 1] : 0), end = n - c->after.count;
        int64_t head = 0;
        while (head < c->head.count && head < end && ids[head] == c->head.at[head])
            head++;
        answer += c->answers[m];
        const int64_t at = c->tokens.count - begin + head;
        if (c->answers[m] && T > 0 && at > T && reason[0] == '\0')
            snprintf(reason, REASON,
                     "has answer %d from token %lld on, which --seq-len %lld cuts away: use --seq-len %lld or more",
                     answer, (long long)at, (long long)T, (long long)at);
        for (int64_t i = 0; i < n && room; i++)
            room = add_token(c, ids[i], c->answers[m] && i >= head && i < end);
    }
    if (room && c->file->documents == c->end_room) {
        c->end_room = c->end_room * 2 + 1024;
        room = grow((void **)&c->file->ends, c->end_room, sizeof *c->file->ends);
    }
    if (!room)
        return no_memory(c, error);
    if (reason[0] != '\0') {
        c->tokens.count = begin;
        c->counted = counted;
        return wrong(c, v->line, reason, error);
    }
    c->file->ends[c->file->documents++] = c->tokens.count;
    return ZERO_OK;
}

/* Encodes the conversations of the block. */
static zero_status_t finish_block(chat_t *c, zero_error_t *error)
{
    zero_error_t why = {0};
    int64_t failed = -1;
    c->ids.count = 0;
    zero_status_t status = ZERO_OK;
    if (c->messages > 0)
        status =
            zero_encoders_encode(c->encoders, c->texts, c->messages, false, &c->ids, c->message_ends, &failed, &why);
    if (status != ZERO_OK)
        zero_fail(error, status, "%s '%s': %s", c->data->option, c->file->path, why.text);
    for (int64_t i = 0; i < c->count && status == ZERO_OK; i++)
        status = add_conversation(c, &c->conversations[i], error);
    drop_messages(c, 0);
    c->count = 0;
    return status;
}

static zero_status_t encode_text(const chat_t *c, const char *text, zero_ids_t *ids, zero_error_t *error)
{
    const zero_text_t one = {text, strlen(text)};
    int64_t end, failed;
    return zero_encoders_encode(c->encoders, &one, 1, false, ids, &end, &failed, error);
}

/* Encodes what stands before an answer, and after each message. */
static zero_status_t encode_frame(chat_t *c, zero_error_t *error)
{
    char head[128];
    snprintf(head, sizeof head, "%sassistant%s", c->t->before_role, c->t->after_role);
    zero_status_t status = encode_text(c, head, &c->head, error);
    return status == ZERO_OK ? encode_text(c, c->t->after, &c->after, error) : status;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static zero_status_t open_lines(const data_t *data, const data_file_t *f, FILE **file, zero_error_t *error)
{
    *file = fopen(f->path, "re");
    return *file != NULL
               ? ZERO_OK
               : zero_fail(error, ZERO_ERR_IO, "cannot open %s '%s': %s", data->option, f->path, strerror(errno));
}

static zero_status_t read_file(chat_t *c, zero_error_t *error)
{
    FILE *file = NULL;
    char *text = NULL;
    size_t room = 0;
    ssize_t n;
    zero_status_t status = open_lines(c->data, c->file, &file, error);
    c->tokens = (zero_ids_t){0};
    c->end_room = 0;
    errno = 0;
    for (int64_t line = 1; status == ZERO_OK && (n = getline(&text, &room, file)) >= 0; line++) {
        status = take_line(c, text, (size_t)n, line, error);
        if (status == ZERO_OK && c->messages >= BLOCK_MESSAGES)
            status = finish_block(c, error);
    }
    if (status == ZERO_OK && !feof(file))
        status =
            zero_fail(error, ZERO_ERR_IO, "cannot read %s '%s': %s", c->data->option, c->file->path, strerror(errno));
    if (status == ZERO_OK)
        status = finish_block(c, error);
    drop_messages(c, 0);
    free(text);
    if (file != NULL)
        fclose(file);
    if (status == ZERO_OK && c->tokens.at == NULL && !add_id(&c->tokens, 0)) /* memory that is not NULL */
        status = no_memory(c, error);
    if (status == ZERO_OK && c->tokens.count == 1 && c->file->documents == 0)
        c->tokens.count = 0;
    if (status != ZERO_OK) {
        free(c->tokens.at);
        return status;
    }
    data_put(c->data, c->file, c->tokens.at, c->tokens.count);
    c->conversation_count += c->file->documents;
    return ZERO_OK;
}

zero_status_t chat_detect(data_t *data, bool *chat, zero_error_t *error)
{
    FILE *file = NULL;
    char *text = NULL;
    size_t room = 0;
    ssize_t n;
    json_t *object = NULL;
    *chat = false;
    if (!data_is_lines(data))
        return ZERO_OK;
    zero_status_t status = open_lines(data, &data->files[0], &file, error);
    while (status == ZERO_OK && object == NULL && (n = getline(&text, &room, file)) >= 0)
        object = json_loadb(text, (size_t)n, JSON_ALLOW_NUL, NULL); /* lines that are wrong are found later */
    *chat = json_object_get(object, "messages") != NULL ||
            (json_object_get(object, "prompt") != NULL && json_object_get(object, "completion") != NULL);
    json_decref(object);
    free(text);
    if (file != NULL)
        fclose(file);
    return status;
}

zero_status_t chat_read(data_t *data, const chat_options_t *options, lines_t *lines, int64_t *conversations,
                        zero_error_t *error)
{
    chat_t c = {.data = data, .o = options, .lines = lines};
    zero_status_t status = find_template(data, options, &c.t, error);
    if (status == ZERO_OK)
        status = zero_encoders_open(&c.encoders, options->tokenizer, options->threads, error);
    if (status == ZERO_OK)
        status = encode_frame(&c, error);
    for (int i = 0; i < data->count && status == ZERO_OK; i++) {
        c.file = &data->files[i];
        status = read_file(&c, error);
    }
    if (status == ZERO_OK && c.conversation_count == 0)
        status = zero_fail(error, ZERO_ERR_FORMAT, "%s %s has no conversation%s%s", data->option, data->name,
                           lines->skipped > 0 ? "; the first line that was left out: " : "", lines->first);
    *conversations = c.conversation_count;
    zero_encoders_close(c.encoders);
    free(c.ids.at);
    free(c.head.at);
    free(c.after.at);
    free(c.texts);
    free(c.message_ends);
    free(c.answers);
    free(c.conversations);
    if (status == ZERO_OK)
        data->counts = c.counts;
    else
        free(c.counts);
    return status;
}
