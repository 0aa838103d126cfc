//! The figures as SVG: rates as bars, growth as lines.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::big;
use crate::report::{Report, Series};

const WIDTH: f64 = 760.0;
/// Where bars begin, and lines.
const LEFT: f64 = 150.0;
/// What stays free beside the longest bar, for its number.
const RIGHT: f64 = 90.0;
const BAR: f64 = 16.0;
const COLORS: [&str; 5] = ["#1f5fa8", "#9a9a9a", "#d1762b", "#6aa56a", "#8a63a8"];

/// Draws `rates.svg`, `growth.svg` and `cost.svg`, as far as there are figures for them.
pub fn draw(report: &Report, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let groups = groups(report);
    let growth = |unit: &str| {
        let of_unit: Vec<_> = report.series.iter().filter(|series| series.y == unit).collect();
        (!of_unit.is_empty()).then(|| lines(&of_unit))
    };
    let plots = [
        ("rates.svg", (!groups.is_empty()).then(|| bars("answers a second", &groups))),
        ("growth.svg", growth(big::RATE)),
        ("cost.svg", growth(big::COST)),
    ];
    for (name, svg) in plots {
        let Some(svg) = svg else { continue };
        let file = directory.join(name);
        std::fs::write(&file, svg).with_context(|| format!("{} is not written", file.display()))?;
    }
    Ok(())
}

/// Bars under one name.
type Group = (String, Vec<(String, f64)>);

/// Daybook and all that ran beside it, for each load with a number of clients alone.
fn groups(report: &Report) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in &report.rows {
        let plain = row.name.starts_with("Deposit, ") && row.name.ends_with(" clients");
        let Some(beside) = row.beside.as_ref().filter(|_| plain) else { continue };
        let at = groups.iter().position(|(name, _)| *name == row.name).unwrap_or_else(|| {
            groups.push((row.name.clone(), vec![("Daybook".to_owned(), row.measured.rate)]));
            groups.len() - 1
        });
        groups[at].1.push((beside.name.clone(), beside.measured.rate));
    }
    groups
}

fn bars(title: &str, groups: &[Group]) -> String {
    let largest = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.1).fold(1.0, f64::max);
    let mut names: Vec<&str> = Vec::new();
    let (mut y, mut body) = (56.0, String::new());
    for (group, bars) in groups {
        text(&mut body, LEFT - 8.0, y + BAR * bars.len() as f64 / 2.0 + 4.0, "end", group);
        for (name, value) in bars {
            let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            let (color, width) = (color(at), value / largest * (WIDTH - LEFT - RIGHT));
            let height = BAR - 2.0;
            let _ = writeln!(
                body,
                r#"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="{height}" fill="{color}"/>"#
            );
            text(&mut body, LEFT + width + 6.0, y + 11.0, "start", &thousands(*value));
            y += BAR;
        }
        y += BAR;
    }
    svg(title, y, &legend(&names), &body)
}

fn lines(series: &[&Series]) -> String {
    const HEIGHT: f64 = 380.0;
    const TOP: f64 = 56.0;
    let all = || series.iter().flat_map(|series| &series.points);
    let decades = |pick: fn(&(f64, f64)) -> f64| {
        let low = all().map(pick).fold(f64::MAX, f64::min).log10().floor();
        (low, all().map(pick).fold(1.0, f64::max).log10().ceil().max(low + 1.0))
    };
    let ((x0, x1), (y0, y1)) = (decades(|point| point.0), decades(|point| point.1));
    let (bottom, right) = (HEIGHT - 44.0, WIDTH - 24.0);
    let x = |value: f64| LEFT / 2.0 + (value.log10() - x0) / (x1 - x0) * (right - LEFT / 2.0);
    let y = |value: f64| bottom - (value.log10() - y0) / (y1 - y0) * (bottom - TOP);
    let mut body = String::new();
    for power in x0 as i32..=x1 as i32 {
        let at = x(10_f64.powi(power));
        let _ = writeln!(body, r##"<path d="M{at:.1} {TOP}V{bottom}" stroke="#dddddd"/>"##);
        text(&mut body, at, bottom + 16.0, "middle", &thousands(10_f64.powi(power)));
    }
    for power in y0 as i32..=y1 as i32 {
        let at = y(10_f64.powi(power));
        let from = LEFT / 2.0;
        let _ = writeln!(body, r##"<path d="M{from} {at:.1}H{right}" stroke="#dddddd"/>"##);
        text(&mut body, from - 6.0, at + 4.0, "end", &thousands(10_f64.powi(power)));
    }
    for (number, one) in series.iter().enumerate() {
        let points: Vec<_> =
            one.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let (color, points) = (color(number), points.join(" "));
        let _ = writeln!(
            body,
            r#"<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>"#
        );
    }
    let names: Vec<_> = series.iter().map(|series| series.name.as_str()).collect();
    let (along, unit) = series.first().map_or(("", ""), |one| (&one.x, &one.y));
    text(&mut body, (LEFT / 2.0 + right) / 2.0, HEIGHT - 8.0, "middle", along);
    svg(unit, HEIGHT, &legend(&names), &body)
}

fn color(number: usize) -> &'static str {
    COLORS[number % COLORS.len()]
}

fn legend(names: &[&str]) -> String {
    let (mut x, mut body) = (16.0, String::new());
    for (number, name) in names.iter().enumerate() {
        let color = color(number);
        let _ = writeln!(body, r#"<rect x="{x}" y="32" width="12" height="12" fill="{color}"/>"#);
        text(&mut body, x + 18.0, 42.0, "start", name);
        x += 40.0 + 7.0 * name.len() as f64;
    }
    body
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}

fn svg(title: &str, height: f64, legend: &str, body: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"
 font-family="sans-serif" font-size="12" fill="#222222">
<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>
<text x="16" y="20" font-size="14" font-weight="bold">{title}</text>
{legend}{body}</svg>
"##
    )
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_highest_rate() {
        let bar = |name: &str, value| (name.to_owned(), value);
        let group = ("8 clients".to_owned(), vec![bar("Daybook", 1_000.0), bar("no-op", 4_000.0)]);
        let drawn = bars("rates", &[group]);
        let full = WIDTH - LEFT - RIGHT;
        assert!(drawn.contains(&format!(r#"width="{full:.1}" height="14" fill="{}""#, COLORS[1])));
        assert!(drawn.contains(&format!(r#"width="{:.1}""#, full / 4.0)));
        assert!(drawn.contains("4,000</text>"));
    }

    #[test]
    fn a_flat_rate_is_a_flat_line() {
        let points = vec![(10_000.0, 50_000.0), (1_000_000.0, 50_000.0)];
        let [name, x, y] = ["rate", "events", "a second"].map(str::to_owned);
        let drawn = lines(&[&Series { name, x, y, points }]);
        let line = drawn.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let heights: Vec<_> = line.split(' ').map(|point| point.split(',').nth(1)).collect();
        assert_eq!(heights[0], heights[1]);
        assert!(drawn.contains("1,000,000</text>"));
    }
}
