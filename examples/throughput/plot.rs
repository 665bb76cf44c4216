//! Draws the plot: memory by the size of the backlog.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 736.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 236.0;

/// Legible colours on both a light and a dark background.
const INK: &str = "#7d8590";
const CURVE: &str = "#2f81f7";

/// Draws the peak in MiB by the number of events. Each number is ten times the one before.
pub fn svg(points: &[(usize, f64)]) -> String {
    let highest = points.iter().fold(0.0, |highest: f64, (_, mib)| highest.max(*mib));
    // Four steps of 5 MiB or a multiple of it reach above the highest point.
    let step = (highest / 20.0).ceil().max(1.0) * 5.0;
    let y = |mib: f64| BOTTOM - (BOTTOM - TOP) * mib / (4.0 * step);
    let column = (RIGHT - LEFT) / points.len() as f64;
    let x = |number: usize| LEFT + column * (number as f64 + 0.5);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\" fill=\"{INK}\" role=\"img\" aria-label=\"Peak memory of auditsync by the size of the backlog\">\n"
    );
    text(&mut svg, 24.0, 22.0, "start", "peak memory, MiB");
    text(&mut svg, f64::midpoint(LEFT, RIGHT), HEIGHT - 12.0, "middle", "events in the backlog");
    for mib in [0.0, 1.0, 2.0, 3.0, 4.0].map(|number| number * step) {
        let line = format!("<path d=\"M{LEFT} {0:.1}H{RIGHT}\" stroke=\"{INK}\" stroke-opacity=\"0.4\"/>\n", y(mib));
        svg.push_str(&line);
        text(&mut svg, LEFT - 10.0, y(mib) + 4.5, "end", &mib.to_string());
    }
    let mut corners = String::new();
    for (number, (events, mib)) in points.iter().enumerate() {
        let (x, y) = (x(number), y(*mib));
        // Writing to a `String` does not fail.
        let _ = write!(corners, "{x:.1},{y:.1} ");
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{CURVE}\"/>");
        text(&mut svg, x, BOTTOM + 21.0, "middle", &events.to_string());
        text(&mut svg, x, y - 10.0, "middle", &format!("{mib:.1}"));
    }
    let _ =
        writeln!(svg, "<polyline points=\"{corners}\" fill=\"none\" stroke=\"{CURVE}\" stroke-width=\"2.5\"/>\n</svg>");
    svg
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}
