//! As much of a terminal as our programs use: lines, returns, clearing of lines, and rows that are full.

/// How many letters a row has.
pub(super) const COLUMNS: usize = 78;

/// What a terminal shows.
#[derive(Default)]
pub(super) struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// The escape sequence that is being read, if one is.
    escape: Option<String>,
}

impl Screen {
    pub(super) fn write_all(&mut self, text: &str) {
        text.chars().for_each(|letter| self.write(letter));
    }

    pub(super) fn write(&mut self, letter: char) {
        if let Some(sequence) = &mut self.escape {
            sequence.push(letter);
            // "ESC [", numbers, and a letter that says what.
            if sequence.len() > 1 && ('@'..='~').contains(&letter)
                || letter != '[' && sequence.len() == 1
            {
                let sequence = std::mem::take(sequence);
                self.escape = None;
                self.obey(&sequence);
            }
            return;
        }
        match letter {
            '\u{1b}' => self.escape = Some(String::new()),
            '\r' => self.column = 0,
            '\n' => self.row += 1,
            letter if letter.is_control() => {}
            letter => {
                if self.column >= COLUMNS {
                    self.column = 0;
                    self.row += 1;
                }
                let (row, column) = self.line();
                if row.len() <= column {
                    row.resize(column + 1, ' ');
                }
                row[column] = letter;
                self.column += 1;
            }
        }
    }

    /// The rows, without spaces at their ends.
    pub(super) fn rows(&self) -> Vec<String> {
        let rows = self.rows.iter().map(|row| row.iter().collect::<String>());
        let mut rows: Vec<_> = rows.map(|row| row.trim_end().to_owned()).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    fn line(&mut self) -> (&mut Vec<char>, usize) {
        if self.rows.len() <= self.row {
            self.rows.resize(self.row + 1, Vec::new());
        }
        (&mut self.rows[self.row], self.column)
    }

    fn obey(&mut self, sequence: &str) {
        let number = |text: &str| text.parse::<usize>().unwrap_or(1);
        let Some(arguments) = sequence.strip_prefix('[') else {
            return;
        };
        match arguments.split_at(arguments.len() - 1) {
            (up, "A") => self.row = self.row.saturating_sub(number(up)),
            ("2", "K") => self.line().0.clear(),
            (_, "K") => {
                let (row, column) = self.line();
                row.truncate(column);
            }
            // Colours, and whether the cursor is seen.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bar_does_is_followed() {
        let mut screen = Screen::default();
        screen.write_all("one\r\n\u{1b}[?25l[>  ] 1 %\r\u{1b}[2K[=> ] 50 %\r[");
        assert_eq!(screen.rows(), ["one", "[=> ] 50 %"]);
        screen.write_all("\r\u{1b}[K\u{1b}[1mdone\u{1b}[0m\r\n");
        assert_eq!(screen.rows(), ["one", "done"]);
        screen.write_all("\u{1b}[1A\u{1b}[2K");
        assert_eq!(screen.rows(), ["one"]);
        // A bar fills its row when it ends, and what follows is in the next.
        screen.write_all(&format!("{:COLUMNS$}", "two"));
        screen.write_all("three");
        assert_eq!(screen.rows(), ["one", "two", "three"]);
    }
}
