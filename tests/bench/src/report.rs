//! The figures of a run: as a table for people, as JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::Window;
use crate::machine::Machine;

/// Above this share of the processors for others, a run is not worth quoting.
const TOO_BUSY: f64 = 0.05;

/// All of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// How long each window was.
    pub window_seconds: f64,
    /// How many windows each figure is the median of.
    pub windows: usize,
    /// Loads.
    pub rows: Vec<Row>,
    /// Single figures.
    pub figures: Vec<Figure>,
    /// What must at least be reached.
    pub floors: Vec<Floor>,
    /// What changes as something grows.
    #[serde(default)]
    pub series: Vec<Series>,
}

/// Figures along an axis.
#[derive(Debug, Serialize, Deserialize)]
pub struct Series {
    /// What was measured.
    pub name: String,
    /// What grows.
    pub x: String,
    /// The unit of the figures.
    pub y: String,
    /// Both, in the order of what grows.
    pub points: Vec<(f64, f64)>,
}

/// A load and what it is compared with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Its figures.
    pub measured: Summary,
    /// What ran beside it, window by window.
    pub beside: Option<Beside>,
}

/// What a load is compared with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Beside {
    /// What it is.
    pub name: String,
    /// Its figures.
    pub measured: Summary,
    /// The rate of the load as a part of this one's: the median over the pairs of windows.
    pub ratio: f64,
}

/// The medians of several windows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Answers a second.
    pub rate: f64,
    /// The rate of each window, in order.
    pub rates: Vec<f64>,
    /// The median latency in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of the latency in milliseconds.
    pub p99_ms: f64,
    /// The processor time of the servers for each answer, in microseconds.
    pub server_us: f64,
    /// The processor time of the clients for each answer, in microseconds.
    pub client_us: f64,
    /// The share of the machine that others used meanwhile.
    pub others: f64,
}

/// A single figure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
}

/// A floor, and whether it was reached.
#[derive(Debug, Serialize, Deserialize)]
pub struct Floor {
    /// What is asked for.
    pub name: String,
    /// What was measured, in the unit of the floor.
    pub measured: f64,
    /// The floor, in words.
    pub floor: String,
    /// Whether it was reached.
    pub reached: bool,
}

impl Summary {
    /// Sums windows up. `latency` says which histogram of a window counts.
    pub fn of(windows: &[(Window, Histogram<u64>)], processors: usize) -> Self {
        let over = |figure: &dyn Fn(&Window, &Histogram<u64>) -> f64| {
            median(windows.iter().map(|(window, latency)| figure(window, latency)).collect())
        };
        let per_answer = |seconds: f64, window: &Window| seconds * 1e6 / window.answers as f64;
        Self {
            rate: over(&|window, _| window.rate()),
            rates: windows.iter().map(|(window, _)| window.rate()).collect(),
            p50_ms: over(&|_, latency| milliseconds(latency, 0.5)),
            p99_ms: over(&|_, latency| milliseconds(latency, 0.99)),
            server_us: over(&|window, _| per_answer(window.usage.servers, window)),
            client_us: over(&|window, _| per_answer(window.usage.bench, window)),
            others: over(&|window, _| window.usage.others / window.seconds / processors as f64),
        }
    }

    /// The same, with the latency that the window itself has.
    pub fn of_windows(windows: Vec<Window>, processors: usize) -> Self {
        let with_latency = |window: Window| {
            let latency = window.latency.clone();
            (window, latency)
        };
        let windows: Vec<_> = windows.into_iter().map(with_latency).collect();
        Self::of(&windows, processors)
    }
}

/// A quantile in milliseconds.
pub fn milliseconds(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1000.0
}

/// The median; of an even number, the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

impl Row {
    /// A load beside its ceiling: the windows of both in pairs, as they were run.
    pub fn beside(name: String, measured: Summary, ceiling: &str, summary: Summary) -> Self {
        let ratios = measured.rates.iter().zip(&summary.rates).map(|(own, ceiling)| own / ceiling);
        let ratio = median(ratios.collect());
        let beside = Beside { name: ceiling.to_owned(), measured: summary, ratio };
        Self { name, measured, beside: Some(beside) }
    }
}

impl Report {
    /// The tables.
    pub fn text(&self) -> String {
        let Machine { processors, model, kernel, load_before } = &self.machine;
        let mut text = format!(
            "{model}, {processors} processors for clients and servers, Linux {kernel}, load \
             average {load_before} before the run\nmedians of {} windows of {} s each\n",
            self.windows, self.window_seconds
        );
        let others =
            self.rows.iter().map(|row| row.measured.others).max_by(f64::total_cmp).unwrap_or(0.0);
        if others > TOO_BUSY {
            text += &format!(
                "WARNING: other processes used up to {:.0} % of the processors meanwhile; do not \
                 quote these figures\n",
                others * 100.0
            );
        }
        for table in [self.loads(), self.single_figures(), self.floor_table()] {
            if table.row_count() > 0 {
                text += &format!("\n{}\n", table.trim_fmt());
            }
        }
        text
    }

    fn loads(&self) -> Table {
        let header = [
            "load",
            "per second",
            "p50 ms",
            "p99 ms",
            "server µs",
            "client µs",
            "beside it",
            "per second",
            "server µs",
            "ratio",
        ];
        let mut table = table(&header, &[1, 2, 3, 4, 5, 7, 8, 9]);
        for row in &self.rows {
            let own = &row.measured;
            let mut cells = vec![
                row.name.clone(),
                format!("{:.0}", own.rate),
                format!("{:.2}", own.p50_ms),
                format!("{:.2}", own.p99_ms),
                format!("{:.1}", own.server_us),
                format!("{:.1}", own.client_us),
            ];
            if let Some(beside) = &row.beside {
                cells.push(beside.name.clone());
                cells.push(format!("{:.0}", beside.measured.rate));
                cells.push(format!("{:.1}", beside.measured.server_us));
                cells.push(format!("{:.0} %", beside.ratio * 100.0));
            }
            table.add_row(cells);
        }
        table
    }

    fn single_figures(&self) -> Table {
        let mut table = table(&["figure", "value", "unit"], &[1]);
        for figure in &self.figures {
            let cells = [figure.name.clone(), format!("{:.2}", figure.value), figure.unit.clone()];
            table.add_row(cells);
        }
        table
    }

    fn floor_table(&self) -> Table {
        let mut table = table(&["floor", "asked", "measured", "reached"], &[2]);
        for floor in &self.floors {
            table.add_row([
                floor.name.clone(),
                floor.floor.clone(),
                format!("{:.1}", floor.measured),
                if floor.reached { "yes" } else { "NO" }.to_owned(),
            ]);
        }
        table
    }
}

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert!((median(vec![4.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
    }
}
