//! A place in the text, counted as `PyYAML`'s reader.py counts: in characters and columns.

/// What lies past the last character, as in reader.py. The text itself holds no NUL: `read`
/// refuses that first.
pub const END: char = '\0';

#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    text: &'a str,
    /// Byte offset; `index` is the same place in characters.
    at: usize,
    pub index: usize,
    /// From 1.
    pub line: usize,
    pub column: isize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, index: 0, line: 1, column: 0 }
    }

    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn peek(&self) -> char {
        first(self.rest())
    }

    pub fn peek_two(&self) -> (char, char) {
        let mut chars = self.rest().chars();
        (chars.next().unwrap_or(END), chars.next().unwrap_or(END))
    }

    pub fn bump(&mut self) {
        let length = self.rest().chars().next().map_or(0, char::len_utf8);
        self.skip(length);
    }

    /// Takes what comes before the first character that `stops`, which must not pass a line break.
    pub fn take(&mut self, stops: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let run = &rest[..rest.find(stops).unwrap_or(rest.len())];
        self.skip(run.len());
        run
    }

    /// Steps over `length` bytes that hold no line break. A byte-order mark takes no column.
    pub fn skip(&mut self, length: usize) {
        let run = &self.rest()[..length];
        let (chars, columns) = if run.is_ascii() {
            (length, length)
        } else {
            (run.chars().count(), run.chars().filter(|c| *c != '\u{feff}').count())
        };
        self.at += length;
        self.index += chars;
        self.column = self.column.saturating_add_unsigned(columns);
    }

    pub fn skip_spaces(&mut self) {
        self.take(|c| c != ' ');
    }

    /// Steps over spaces and a comment; tabs are no blanks here.
    pub fn skip_comment(&mut self) {
        self.skip_spaces();
        if self.peek() == '#' {
            self.take(is_break);
        }
    }

    /// Steps over a line break and tells what it reads as: `\r\n`, `\r` and NEL become `\n`.
    pub fn line_break(&mut self) -> Option<char> {
        let (length, chars, reads_as) = match self.peek_two() {
            ('\r', '\n') => (2, 2, '\n'),
            ('\r' | '\n', _) => (1, 1, '\n'),
            ('\u{85}', _) => (2, 1, '\n'),
            (c @ ('\u{2028}' | '\u{2029}'), _) => (3, 1, c),
            _ => return None,
        };
        self.at += length;
        self.index += chars;
        self.line += 1;
        self.column = 0;
        Some(reads_as)
    }

    /// Whether a `---` or `...` line starts here.
    pub fn at_document_mark(&self, mark: &str) -> bool {
        self.column == 0
            && self.rest().strip_prefix(mark).is_some_and(|after| is_blank(first(after)))
    }
}

fn first(text: &str) -> char {
    text.chars().next().unwrap_or(END)
}

/// scanner.py's `'\0\r\n\x85\u2028\u2029'`
pub fn is_break(c: char) -> bool {
    matches!(c, END | '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// scanner.py's `'\0 \t\r\n\x85\u2028\u2029'`
pub fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t') || is_break(c)
}
