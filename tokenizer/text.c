/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - growing texts and ids, UTF-8, classes of characters. */
#include "tokenizer/parts.h"

#include <utf8proc.h>

bool zero_chars_reserve(zero_chars_t *chars, size_t more)
{
    size_t wanted = chars->count + more, room = chars->room * 2 > wanted ? chars->room * 2 : wanted + 64;
    if (wanted <= chars->room)
        return true;
    char *at = wanted >= chars->count ? realloc(chars->at, room) : NULL;
    if (at == NULL)
        return false;
    chars->at = at;
    chars->room = room;
    return true;
}

bool zero_chars_add(zero_chars_t *chars, const char *at, size_t bytes)
{
    if (!zero_chars_reserve(chars, bytes))
        return false;
    if (bytes > 0)
        memcpy(chars->at + chars->count, at, bytes);
    chars->count += bytes;
    return true;
}

bool zero_ids_reserve(zero_ids_t *ids, int64_t more)
{
    int64_t wanted = ids->count + more, room = ids->room * 2 > wanted ? ids->room * 2 : wanted + 64;
    if (wanted <= ids->room)
        return true;
    int32_t *at = realloc(ids->at, (size_t)room * sizeof *at);
    if (at == NULL)
        return false;
    ids->at = at;
    ids->room = room;
    return true;
}

uint32_t zero_utf8_get(const char *at)
{
    const unsigned char *p = (const unsigned char *)at;
    switch (zero_utf8_bytes(*at)) {
    case 1:
        return p[0];
    case 2:
        return (uint32_t)(p[0] & 31) << 6 | (p[1] & 63);
    case 3:
        return (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (p[2] & 63);
    default:
        return (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 63) << 12 | (uint32_t)(p[2] & 63) << 6 | (p[3] & 63);
    }
}

size_t zero_utf8_put(uint32_t c, char *at)
{
    if (c < 0x80) {
        at[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        at[0] = (char)(0xc0 | c >> 6);
        at[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        at[0] = (char)(0xe0 | c >> 12);
        at[1] = (char)(0x80 | (c >> 6 & 63));
        at[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    at[0] = (char)(0xf0 | c >> 18);
    at[1] = (char)(0x80 | (c >> 12 & 63));
    at[2] = (char)(0x80 | (c >> 6 & 63));
    at[3] = (char)(0x80 | (c & 63));
    return 4;
}

const char *zero_utf8_before(const char *at)
{
    do
        at--;
    while (((unsigned char)*at & 0xc0) == 0x80);
    return at;
}

size_t zero_utf8_check(const char *text, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < bytes) {
        uint64_t eight;
        while (i + 8 <= bytes && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0))
            i += 8;
        if (i == bytes)
            break;
        unsigned char c = p[i], low = 0x80, high = 0xbf;
        size_t more;
        if (c < 0x80) {
            i++;
            continue;
        }
        if (c >= 0xc2 && c < 0xe0)
            more = 1;
        else if (c >= 0xe0 && c < 0xf0) {
            more = 2;
            low = c == 0xe0 ? 0xa0 : 0x80;  /* shorter spellings exist below */
            high = c == 0xed ? 0x9f : 0xbf; /* surrogates */
        } else if (c >= 0xf0 && c < 0xf5) {
            more = 3;
            low = c == 0xf0 ? 0x90 : 0x80;
            high = c == 0xf4 ? 0x8f : 0xbf; /* beyond U+10FFFF */
        } else
            return i;
        if (i + more >= bytes || p[i + 1] < low || p[i + 1] > high)
            return i;
        for (size_t k = 2; k <= more; k++)
            if ((p[i + k] & 0xc0) != 0x80)
                return i;
        i += more + 1;
    }
    return bytes;
}

bool zero_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool zero_is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* letters in circles and squares are symbols that are alphabetic; then the two joiners */
        return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
               (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c || c == 0x200d;
    }
}
