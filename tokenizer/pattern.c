/* SPDX-License-Identifier: Apache-2.0 */
/* pattern.c - regular expressions. Files have Oniguruma's syntax (Ruby's), and PCRE2 matches them, so what the two read
 * differently is translated, and what is not known to mean the same is refused. */
#include "tokenizer/parts.h"

#include <pcre2.h>

enum { GROUPS_MOST = 64, JIT_STACK_BYTES = 64 << 20 };

/* The state of a translation. */
typedef struct translation {
    const char *name, *in, *end, *whole;
    size_t whole_bytes;
    zero_chars_t out;
    size_t groups[GROUPS_MOST]; /* where each open group begins in out */
    int depth;
    size_t atom; /* where the last atom begins in out; SIZE_MAX: nothing that a quantifier could follow */
    bool looks_back;
    zero_error_t *error;
} translation_t;

static bool put(translation_t *t, const char *text)
{
    return zero_chars_add(&t->out, text, strlen(text));
}

static bool refuse(translation_t *t, const char *at, size_t bytes)
{
    size_t left = (size_t)(t->end - at);
    zero_fail(t->error, ZERO_ERR_UNSUPPORTED, "%s: pattern '%.*s' has '%.*s', which is not supported", t->name,
              (int)t->whole_bytes, t->whole, (int)(bytes < left ? bytes : left), at);
    return false;
}

/* ---- escapes ---------------------------------------------------------------------------------------------------- */

/* Oniguruma's classes as members of a PCRE2 class. PCRE2's own \s has U+180E, and its own \w lacks marks. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
#define NO_SPACE                                                                                                       \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}" \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD                                                                                                           \
    "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{" \
    "Pc}"

/* \p{...}: the name of a script gets "sc:", because PCRE2's default is the scripts that share a character. */
static bool property(translation_t *t)
{
    const char *start = t->in - 1, *open = t->in + 1, *close = open;
    char text[64];
    if (t->in + 1 >= t->end || *open != '{')
        return refuse(t, start, 4);
    while (close < t->end && *close != '}')
        close++;
    if (close >= t->end || close - open > 40)
        return refuse(t, start, (size_t)(close - start));
    open++;
    bool negated = open < close && *open == '^';
    open += negated;
    bool category = close - open <= 2 && close > open && memchr("LMNPSZC", *open, 7) != NULL;
#if PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40
    const char *script = category ? "" : "sc:";
#else
    const char *script = "";
    (void)category;
#endif
    snprintf(text, sizeof text, "\\%c{%s%s%.*s}", *t->in, negated ? "^" : "", script, (int)(close - open), open);
    t->in = close + 1;
    return put(t, text);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* \xHH, \x{H...}, \uHHHH */
static bool code_point(translation_t *t)
{
    const char *start = t->in - 1;
    char kind = *t->in++, text[24];
    bool braces = kind == 'x' && t->in < t->end && *t->in == '{';
    uint32_t c = 0;
    int digits = 0, most = kind == 'u' ? 4 : braces ? 6 : 2;
    t->in += braces;
    for (; t->in < t->end && digits < most && hex_digit(*t->in) >= 0; digits++)
        c = c * 16 + (uint32_t)hex_digit(*t->in++);
    /* \x80 and above would be a byte */
    if (digits == 0 || (kind == 'u' && digits != 4) || (kind == 'x' && !braces && c > 0x7f) ||
        (braces && (t->in >= t->end || *t->in++ != '}')))
        return refuse(t, start, (size_t)(t->in - start));
    snprintf(text, sizeof text, "\\x{%x}", (unsigned)c);
    return put(t, text);
}

/* After a backslash, inside a class or outside. */
static bool escape(translation_t *t, bool in_class)
{
    char c = t->in < t->end ? *t->in : '\0', text[8] = {'\\', c, '\0'};
    const struct {
        char letter;
        const char *in_class, *outside;
    } classes[] = {
        {'s', SPACE, "[" SPACE "]"},
        {'S', NO_SPACE, "[^" SPACE "]"},
        {'d', "\\p{Nd}", "\\p{Nd}"},
        {'D', "\\P{Nd}", "\\P{Nd}"},
        {'w', WORD, "[" WORD "]"},
        {'W', NULL, "[^" WORD "]"},
        {'h', "0-9A-Fa-f", "[0-9A-Fa-f]"},
        {'v', "\\x0b", "\\x0b"},
        {'t', "\\t", "\\t"},
        {'n', "\\n", "\\n"},
        {'r', "\\r", "\\r"},
        {'f', "\\f", "\\f"},
        {'a', "\\x07", "\\x07"},
        {'e', "\\x1b", "\\x1b"},
        {'A', NULL, "\\A"},
        {'z', NULL, "\\z"},
    };
    if (c == 'p' || c == 'P')
        return property(t);
    if (c == 'x' || c == 'u')
        return code_point(t);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (c != '\0' && classes[i].letter == c) {
            const char *as = in_class ? classes[i].in_class : classes[i].outside;
            t->looks_back |= c == 'A';
            t->in++;
            return as != NULL ? put(t, as) : refuse(t, t->in - 2, 2);
        }
    if (c <= ' ' || c >= 0x7f || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) {
        if (c != ' ')
            return refuse(t, t->in - 1, 2);
    }
    t->in++;
    return put(t, text);
}

/* After the bracket that opens a class. */
static bool class(translation_t *t)
{
    const char *start = t->in - 1;
    bool ok = put(t, "[");
    if (t->in < t->end && *t->in == '^') {
        ok = ok && put(t, "^");
        t->in++;
    }
    if (t->in < t->end && *t->in == ']')
        return refuse(t, start, 3);
    while (ok && t->in < t->end && *t->in != ']') {
        char c = *t->in++;
        if (c == '\\')
            ok = escape(t, true);
        else if (c == '[' || (c == '&' && t->in < t->end && *t->in == '&'))
            return refuse(t, start, (size_t)(t->in + 1 - start)); /* a class within a class, an intersection */
        else
            ok = zero_chars_add(&t->out, &c, 1);
    }
    if (ok && t->in >= t->end)
        return refuse(t, start, (size_t)(t->end - start));
    t->in++;
    return ok && put(t, "]");
}

/* ---- groups and quantifiers ------------------------------------------------------------------------------------- */

/* After the parenthesis that opens a group. */
static bool group(translation_t *t)
{
    static const char *const kinds[] = {"?:", "?=", "?!", "?>", "?<=", "?<!", "?i:", "?-i:"};
    const char *start = t->in - 1, *kind = "?:";
    size_t left = (size_t)(t->end - t->in), length = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && length == 0; i++)
        if (left >= strlen(kinds[i]) && strncmp(t->in, kinds[i], strlen(kinds[i])) == 0) {
            kind = kinds[i];
            length = strlen(kind);
        }
    if ((length == 0 && left > 0 && *t->in == '?') || t->depth == GROUPS_MOST)
        return refuse(t, start, 4);
    t->looks_back |= strncmp(kind, "?<", 2) == 0;
    t->groups[t->depth++] = t->out.count;
    t->in += length;
    t->atom = SIZE_MAX;
    return put(t, "(") && put(t, kind); /* nothing refers to groups, so none captures */
}

/* Oniguruma repeats x{n,m}+ once more, where PCRE2 would make it possessive, and x{n}? is an optional x{n}. Puts the
 * atom and its interval into a group of their own. */
static bool wrap(translation_t *t)
{
    if (!zero_chars_reserve(&t->out, 4))
        return false;
    memmove(t->out.at + t->atom + 3, t->out.at + t->atom, t->out.count - t->atom);
    memcpy(t->out.at + t->atom, "(?:", 3);
    t->out.count += 3;
    return put(t, ")");
}

/* At an opening brace: {n}, {n,}, {,m} or {n,m}, else a character. */
static bool interval(translation_t *t)
{
    const char *at = t->in + 1, *low = at, *high;
    char text[48];
    while (at < t->end && *at >= '0' && *at <= '9')
        at++;
    int low_digits = (int)(at - low), high_digits = 0;
    bool comma = at < t->end && *at == ',';
    high = at += comma;
    while (comma && at < t->end && *at >= '0' && *at <= '9')
        at++;
    high_digits = (int)(at - high);
    if (at >= t->end || *at != '}' || low_digits + high_digits == 0 || low_digits > 5 || high_digits > 5) {
        t->atom = t->out.count;
        t->in++;
        return put(t, "\\{");
    }
    if (t->atom == SIZE_MAX)
        return refuse(t, t->in, (size_t)(at + 1 - t->in));
    if (low_digits == 0)
        snprintf(text, sizeof text, "{0,%.*s}", high_digits, high);
    else
        snprintf(text, sizeof text, "{%.*s%s%.*s}", low_digits, low, comma ? "," : "", high_digits, high);
    t->in = at + 1;
    if (!put(t, text))
        return false;
    bool next = t->in < t->end && (*t->in == '+' || (*t->in == '?' && !comma));
    if (!next) {
        if (t->in < t->end && *t->in == '?') {
            t->in++;
            if (!put(t, "?"))
                return false;
        }
        t->atom = SIZE_MAX;
        return true;
    }
    return wrap(t); /* the loop then reads the + or ? as a quantifier of the group */
}

static bool translate_one(translation_t *t)
{
    char c = *t->in;
    size_t start = t->out.count;
    bool ok;
    switch (c) {
    case '\\':
        t->in++;
        ok = escape(t, false);
        t->atom = start;
        return ok;
    case '[':
        t->in++;
        ok = class(t);
        t->atom = start;
        return ok;
    case '(':
        t->in++;
        return group(t);
    case ')':
        if (t->depth == 0)
            return refuse(t, t->in, 1);
        t->atom = t->groups[--t->depth];
        t->in++;
        return put(t, ")");
    case '{':
        return interval(t);
    case '*':
    case '+':
    case '?':
        if (t->atom == SIZE_MAX)
            return refuse(t, t->in, 2);
        t->in++;
        ok = zero_chars_add(&t->out, &c, 1);
        if (ok && t->in < t->end && (*t->in == '+' || *t->in == '?')) /* possessive, lazy */
            ok = zero_chars_add(&t->out, t->in++, 1);
        t->atom = SIZE_MAX;
        return ok;
    case '^':
        t->looks_back = true;
        /* fall through */
    case '|':
    case '$':
        t->atom = SIZE_MAX;
        t->in++;
        return zero_chars_add(&t->out, &c, 1);
    default: {
        size_t n = zero_utf8_bytes(c);
        ok = zero_chars_add(&t->out, t->in, n);
        t->atom = start;
        t->in += n;
        return ok;
    }
    }
}

/* ---- compiling -------------------------------------------------------------------------------------------------- */

zero_status_t zero_pattern_compile(zero_pattern_t *p, const char *name, const char *text, size_t bytes,
                                   zero_error_t *error)
{
    zero_error_t why = {0};
    translation_t t = {.name = name,
                       .in = text,
                       .end = text + bytes,
                       .whole = text,
                       .whole_bytes = bytes,
                       .atom = SIZE_MAX,
                       .error = &why};
    zero_status_t status = ZERO_OK;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    bool ok = context != NULL && zero_chars_reserve(&t.out, bytes + 1);
    while (ok && t.in < t.end)
        ok = translate_one(&t);
    if (ok && t.depth > 0)
        ok = refuse(&t, t.whole, bytes);
    if (!ok) {
        if (why.status != ZERO_OK)
            status = zero_fail(error, why.status, "%s", why.text);
        else
            status = zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for pattern '%.*s'", name, (int)bytes, text);
        goto end;
    }
    int number, may_be_empty = 0;
    PCRE2_SIZE offset;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    p->code = pcre2_compile((PCRE2_SPTR)t.out.at, t.out.count,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK, &number, &offset, context);
    if (p->code == NULL) {
        PCRE2_UCHAR message[160] = "";
        pcre2_get_error_message(number, message, sizeof message);
        status =
            zero_fail(error, ZERO_ERR_FORMAT, "%s: pattern '%.*s' is not a regular expression that PCRE2 knows: %s",
                      name, (int)bytes, text, (const char *)message);
        goto end;
    }
    p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    pcre2_pattern_info(p->code, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
    p->may_be_empty = may_be_empty != 0;
    p->looks_back = t.looks_back;
end:
    pcre2_compile_context_free(context);
    free(t.out.at);
    return status;
}

bool zero_pattern_literal(zero_pattern_t *p, const char *text, size_t bytes)
{
    p->literal = malloc(bytes + 1);
    if (p->literal == NULL)
        return false;
    memcpy(p->literal, text, bytes);
    p->literal_bytes = bytes;
    return true;
}

void zero_pattern_free(zero_pattern_t *p)
{
    free(p->literal);
    pcre2_code_free(p->code);
}

/* ---- matching --------------------------------------------------------------------------------------------------- */

bool zero_matcher_open(zero_matcher_t *m)
{
    pcre2_match_data *data = m->data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = m->context = pcre2_match_context_create(NULL);
    pcre2_jit_stack *stack = m->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, NULL);
    if (context != NULL && stack != NULL)
        pcre2_jit_stack_assign(context, NULL, stack);
    return data != NULL && context != NULL; /* without JIT there is no stack */
}

void zero_matcher_close(zero_matcher_t *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
}

static int find_literal(const zero_pattern_t *p, const char *text, size_t bytes, size_t from, size_t *start,
                        size_t *end)
{
    size_t n = p->literal_bytes;
    for (size_t i = from; n > 0 && i + n <= bytes; i++) {
        const char *at = memchr(text + i, p->literal[0], bytes - n + 1 - i);
        if (at == NULL)
            return 0;
        i = (size_t)(at - text);
        if (memcmp(at, p->literal, n) == 0) {
            *start = i;
            *end = i + n;
            return 1;
        }
    }
    return 0;
}

static int match(const zero_pattern_t *p, const zero_matcher_t *m, const char *text, size_t bytes, size_t from,
                 size_t *start, size_t *end)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int n = p->jit ? pcre2_jit_match(p->code, subject, bytes, from, PCRE2_NO_UTF_CHECK, m->data, m->context)
                   : pcre2_match(p->code, subject, bytes, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (n == PCRE2_ERROR_NOMATCH)
        return 0;
    if (n < 0)
        return -1;
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(m->data);
    *start = bounds[0];
    *end = bounds[1];
    return 1;
}

int zero_pattern_find(const zero_pattern_t *p, const zero_matcher_t *m, const char *text, size_t bytes, size_t from,
                      size_t no_empty, size_t *start, size_t *end)
{
    if (p->literal != NULL)
        return find_literal(p, text, bytes, from, start, end);
    for (;;) {
        int found = match(p, m, text, bytes, from, start, end);
        if (found <= 0 || *start != *end || *end != no_empty)
            return found;
        if (from >= bytes)
            return 0;
        from = *end + (*end < bytes ? zero_utf8_bytes(text[*end]) : 1);
        if (from > bytes)
            return 0;
    }
}
