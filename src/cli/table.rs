//! Tables for a terminal. Where the columns have no room side by side, each row is a block of lines instead, with one
//! line for each of its cells: a number that is broken over lines cannot be read any more.

use std::fmt;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

/// A word may be broken over lines of this width and not of less.
const MIN_TEXT: usize = 12;
/// The spaces around each cell.
const PADDING: usize = 2;
/// The space between two columns.
const BETWEEN: usize = 1;

/// A table for a terminal of some width; its text has a line end only between its lines.
pub struct TerminalTable {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
    width: u16,
}

impl TerminalTable {
    /// An empty table. Neither headers nor cells may have control characters.
    pub fn new(headers: &[&str], width: u16) -> Self {
        Self { headers: headers.iter().map(|header| (*header).to_owned()).collect(), rows: Vec::new(), width }
    }

    /// Adds a row with a cell for each header.
    pub fn add_row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// How many rows it has.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Takes all rows away.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// The width that each column needs at least.
    fn needs(&self) -> Vec<usize> {
        let mut needs: Vec<usize> = self.headers.iter().map(|header| longest_word(header)).collect();
        for row in &self.rows {
            for (need, cell) in needs.iter_mut().zip(row) {
                let width = longest_word(cell);
                *need = (*need).max(if is_number(cell) { width } else { width.min(MIN_TEXT) });
            }
        }
        needs
    }

    fn side_by_side(&self, needs: &[usize]) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(self.width).set_header(&self.headers).add_rows(&self.rows);
        for (column, need) in table.column_iter_mut().zip(needs) {
            let least = u16::try_from(need + PADDING).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
        }
        table
    }

    /// A row as lines of a header and its cell; a cell without a text has none.
    fn block(&self, row: &[String]) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(self.width);
        table.add_rows(
            self.headers.iter().zip(row).filter(|(_, cell)| !cell.is_empty()).map(|(header, cell)| [header, cell]),
        );
        if let Some(headers) = table.column_mut(0) {
            headers.set_constraint(ColumnConstraint::ContentWidth);
        }
        table
    }
}

impl fmt::Display for TerminalTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs = self.needs();
        let needed: usize = needs.iter().map(|need| need + PADDING + BETWEEN).sum();
        if needed <= usize::from(self.width) + BETWEEN {
            return self.side_by_side(&needs).fmt(f);
        }
        let line = "─".repeat(usize::from(self.width));
        f.write_str(&line)?;
        for row in &self.rows {
            write!(f, "\n{}\n{line}", self.block(row).trim_fmt())?;
        }
        Ok(())
    }
}

fn longest_word(text: &str) -> usize {
    text.split_whitespace().map(console::measure_text_width).max().unwrap_or(0)
}

fn is_number(cell: &str) -> bool {
    cell.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(headers: &[&str], rows: &[&[&str]], width: u16) -> String {
        let mut table = TerminalTable::new(headers, width);
        rows.iter().for_each(|row| table.add_row(row.iter().map(|cell| (*cell).to_owned()).collect()));
        let text = table.to_string();
        assert!(text.lines().all(|line| console::measure_text_width(line) <= usize::from(width)), "{text}");
        text
    }

    #[test]
    fn what_has_room_stands_side_by_side_and_no_number_is_broken() {
        let headers = ["call", "requests", "p50", "max"];
        let rows: [&[&str]; 2] = [&["get", "1234567", "123456", "99999999"], &["all with errors", "1", "2", "3"]];
        for width in [39, 45, 60, 80] {
            let text = table(&headers, &rows, width);
            for line in [&headers[..], &["get", "1234567", "123456", "99999999"]] {
                let is_line = |text: &str| text.split_whitespace().eq(line.iter().copied());
                assert!(text.lines().any(is_line), "{line:?} at {width}:\n{text}");
            }
        }
    }

    #[test]
    fn what_has_no_room_is_a_block_of_lines_for_each_row() {
        let headers = ["id", "email", "display_name", "attributes"];
        let rows: [&[&str]; 2] = [
            &["user-1", "somebody@a-long-domain.example", "A Name That Is Long", "plan=pro, team=engines"],
            &["user-2", "", "東京東京東京東京東京東京", ""],
        ];
        let text = table(&headers, &rows, 40);
        for words in [&["id", "user-1"][..], &["display_name", "A", "Name", "That", "Is", "Long"], &["id", "user-2"]]
        {
            assert!(text.lines().any(|line| line.split_whitespace().eq(words.iter().copied())), "{words:?}:\n{text}");
        }
        assert_eq!(text.matches("email").count(), 1, "a cell without a text has no line:\n{text}");
        let text = table(&headers, &rows, 80);
        assert!(text.lines().any(|line| line.split_whitespace().eq(headers)), "at 80 columns it is a table:\n{text}");
        for width in [0, 1, 8, 20] {
            let _ = TerminalTable::new(&headers, width).to_string();
        }
    }
}
