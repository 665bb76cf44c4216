//! The plot: throughput and memory by the size of the backlog, one above the other.
//!
//! Colours and text are legible on light and on dark ground, because it is shown on both.

use std::fmt::Write as _;

use crate::growth::Point;
use crate::measure::Figures;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 190.0;
const GAP: f64 = 74.0;
const TOP: f64 = 62.0;

/// A middle grey, and two colours that people who see few colours can tell apart.
const INK: &str = "#7d8590";
const PROGRAM: &str = "#2f81f7";
const FLOOR: &str = "#d9822b";

/// A panel: what it shows, and where.
struct Panel<'a> {
    title: &'a str,
    top: f64,
    most: f64,
    figure: fn(&Figures) -> f64,
    label: fn(f64) -> String,
}

/// The plot as a document.
pub fn svg(points: &[Point]) -> String {
    let height = TOP + 2.0 * PANEL + GAP + 52.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, \
         -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"13\" fill=\"{INK}\" role=\"img\" \
         aria-label=\"Throughput and peak memory of auditsync by the size of the backlog\">\n"
    );
    legend(&mut svg);
    let panels = [
        Panel {
            title: "events per second",
            top: TOP,
            most: ceiling(points, Figures::per_second),
            figure: Figures::per_second,
            label: thousands,
        },
        Panel {
            title: "peak memory, MiB",
            top: TOP + PANEL + GAP,
            most: ceiling(points, Figures::peak_mib),
            figure: Figures::peak_mib,
            label: |value| format!("{value:.0}"),
        },
    ];
    for panel in &panels {
        panel.draw(&mut svg, points);
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    text(&mut svg, (middle, height - 10.0), "middle", "events in the backlog");
    svg.push_str("</svg>\n");
    svg
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String, points: &[Point]) {
        let base = self.top + PANEL;
        text(svg, (LEFT - 60.0, self.top - 14.0), "start", self.title);
        for step in 0..=4 {
            let value = self.most * f64::from(step) / 4.0;
            let y = self.y(value);
            let strength = if step == 0 { 0.9 } else { 0.25 };
            line(svg, (LEFT, y), (WIDTH - RIGHT, y), strength);
            text(svg, (LEFT - 10.0, y + 4.5), "end", &(self.label)(value));
        }
        for (number, point) in points.iter().enumerate() {
            let x = x(number, points.len());
            line(svg, (x, base), (x, base + 5.0), 0.9);
            text(svg, (x, base + 21.0), "middle", &backlog(point.events));
        }
        let places = |figures: &dyn Fn(&Point) -> Option<Figures>| -> Vec<(f64, f64)> {
            let place = |(number, point): (usize, &Point)| {
                Some((x(number, points.len()), self.y((self.figure)(&figures(point)?))))
            };
            points.iter().enumerate().filter_map(place).collect()
        };
        curve(svg, &places(&|point| point.floor), FLOOR, " stroke-dasharray=\"6 5\"");
        curve(svg, &places(&|point| Some(point.program)), PROGRAM, "");
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PANEL * (1.0 - value / self.most)
    }
}

fn legend(svg: &mut String) {
    let y = 18.0;
    for (x, colour, dash, name) in [
        (LEFT, PROGRAM, "", "auditsync"),
        (
            LEFT + 130.0,
            FLOOR,
            " stroke-dasharray=\"6 5\"",
            "floor: as many bytes compressed and posted, no record looked at",
        ),
    ] {
        curve(svg, &[(x, y), (x + 30.0, y)], colour, dash);
        text(svg, (x + 40.0, y + 4.5), "start", name);
    }
}

/// Where the backlog of this number stands: each is ten times the one before, so their distances are equal.
#[allow(clippy::cast_precision_loss, reason = "a handful of points")]
fn x(number: usize, of: usize) -> f64 {
    let inset = 30.0;
    let room = WIDTH - RIGHT - LEFT - 2.0 * inset;
    LEFT + inset + room * number as f64 / of.saturating_sub(1).max(1) as f64
}

/// The end of the scale: a round number above everything.
fn ceiling(points: &[Point], figure: fn(&Figures) -> f64) -> f64 {
    let all = points.iter().flat_map(|point| [Some(point.program), point.floor]).flatten();
    let highest = all.map(|figures| figure(&figures)).fold(1.0, f64::max);
    let magnitude = 10_f64.powf(highest.log10().floor());
    let round = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].map(|step| step * magnitude);
    round.into_iter().find(|round| *round >= highest * 1.05).unwrap_or(20.0 * magnitude)
}

fn thousands(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0}") } else { format!("{:.0}k", value / 1000.0) }
}

/// A power of ten as people write it.
fn backlog(events: usize) -> String {
    match events {
        0..1_000 => events.to_string(),
        1_000..1_000_000 => format!("{}k", events / 1_000),
        _ => format!("{}M", events / 1_000_000),
    }
}

fn curve(svg: &mut String, places: &[(f64, f64)], colour: &str, dash: &str) {
    let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-linejoin=\"round\"{dash}/>",
        path.join(" ")
    );
    for (x, y) in places {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), strength: f64) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{INK}\" stroke-opacity=\"{strength}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}
