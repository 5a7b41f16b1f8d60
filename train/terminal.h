/* SPDX-License-Identifier: Apache-2.0 */
/* terminal.h - a terminal on which a line can be drawn again and again. */
#ifndef TRAIN_TERMINAL_H
#define TRAIN_TERMINAL_H

/* The number of columns of the terminal at file. 0: file is not a terminal, or it cannot erase a line (TERM is dumb or
 * unset), or this process runs in its background. */
int terminal_columns(int file);
/* Erases the line of the cursor, unless that would block. Writes to the file itself, so flush stdio before. */
void terminal_erase(int file);

#endif
