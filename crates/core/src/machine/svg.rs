//! A machine as a picture: states in columns by their distance from the beginning, steps as arrows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{Machine, graph::label};

/// Pixels.
const BOX_HEIGHT: f64 = 34.0;
const ROW: f64 = 74.0;
const GAP: f64 = 90.0;
const MARGIN: f64 = 30.0;
/// Width of one letter at the font's size, a little more than most have.
const LETTER: f64 = 7.8;
/// How far below its boxes a step that leads back swings.
const SWING: f64 = 30.0;

const STYLE: &str = "text{font:13px ui-sans-serif,system-ui,sans-serif;fill:#1f2933}\
    .label{font-size:11px;fill:#52606d;paint-order:stroke;stroke:#fff;stroke-width:4px}\
    .state{fill:#f5f7fa;stroke:#7b8794;stroke-width:1.2}\
    .initial{fill:#e3f8ff;stroke:#1992d4}.terminal{fill:#eafbea;stroke:#2f8132;stroke-width:2.4}\
    .step{fill:none;stroke:#7b8794;stroke-width:1.3}.back{stroke-dasharray:5 4}";

/// Where a state stands.
#[derive(Clone, Copy, Debug)]
struct Spot {
    column: usize,
    /// The middle of the box.
    x: f64,
    y: f64,
    width: f64,
}

impl Machine {
    /// An SVG picture. Steps that lead back are dashed; terminal states have a bold frame.
    pub fn svg(&self) -> String {
        let spots = self.spots();
        let right = spots.values().map(|spot| spot.x + spot.width / 2.0).fold(0.0, f64::max);
        let bottom = spots.values().map(|spot| spot.y).fold(0.0, f64::max);
        let (width, height) = (right + MARGIN, bottom + BOX_HEIGHT + ROW);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"machine {}\">\n\
             <style>{STYLE}</style>\n\
             <defs><marker id=\"arrow\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" \
             markerHeight=\"7\" orient=\"auto-start-reverse\"><path d=\"M0 0L10 5L0 10z\" \
             fill=\"#7b8794\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
            self.name()
        );
        for from in self.states() {
            for (to, rule) in self.steps(from) {
                arrow(&mut svg, spots[from], spots[to], &label(rule));
            }
        }
        for state in self.states() {
            self.draw(&mut svg, state, spots[state]);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Columns by the longest way from where entities begin; what nothing leads to comes last.
    fn spots(&self) -> BTreeMap<&str, Spot> {
        let depths = self.depths();
        let last = depths.values().max().map_or(0, |depth| depth + 1);
        let depth = |state: &str| depths.get(state).copied().unwrap_or(last);
        let mut spots = BTreeMap::new();
        let (mut left, top) = (MARGIN, self.top(&depths));
        for column in 0..=last {
            let states: Vec<&str> = self.states().filter(|state| depth(state) == column).collect();
            let width = states.iter().map(|state| width(state)).fold(0.0, f64::max);
            for (row, state) in states.iter().enumerate() {
                let y = top + BOX_HEIGHT / 2.0 + row as f64 * ROW;
                spots.insert(*state, Spot { column, x: left + width / 2.0, y, width });
            }
            left += if states.is_empty() { 0.0 } else { width + GAP };
        }
        spots
    }

    /// Each state's longest way from an initial one, not counting steps that lead back.
    fn depths(&self) -> BTreeMap<&str, usize> {
        let mut order = Vec::new();
        let mut visited = BTreeSet::new();
        for state in self.states().filter(|state| self.initial.contains(*state)) {
            self.visit(state, &mut visited, &mut order);
        }
        let rank: BTreeMap<&str, usize> =
            order.iter().rev().enumerate().map(|(rank, state)| (*state, rank)).collect();
        let mut depths: BTreeMap<&str, usize> = order.iter().map(|state| (*state, 0)).collect();
        // In this order every step that does not lead back goes onwards.
        for from in order.iter().rev() {
            for (to, _) in self.steps(from).filter(|(to, _)| rank[to] > rank[from]) {
                depths.insert(to, depths[to].max(depths[from] + 1));
            }
        }
        depths
    }

    /// Depth first; `order` gets each state after those that it leads to.
    fn visit<'a>(
        &'a self,
        state: &'a str,
        visited: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a str>,
    ) {
        if !visited.insert(state) {
            return;
        }
        for (to, _) in self.steps(state) {
            self.visit(to, visited, order);
        }
        order.push(state);
    }

    /// Room above the first row for the steps that pass over columns.
    fn top(&self, depths: &BTreeMap<&str, usize>) -> f64 {
        let span = |(from, depth): (&&str, &usize)| {
            let ends = self.steps(from).filter_map(|(to, _)| depths.get(to));
            ends.map(|end| end.saturating_sub(depth + 1)).max().unwrap_or(0)
        };
        MARGIN + lift(depths.iter().map(span).max().unwrap_or(0))
    }

    fn draw(&self, svg: &mut String, state: &str, spot: Spot) {
        let (left, top) = (spot.x - spot.width / 2.0, spot.y - BOX_HEIGHT / 2.0);
        let initial = if self.initial.contains(state) { " initial" } else { "" };
        let terminal = if self.is_terminal(state) { " terminal" } else { "" };
        let _ = writeln!(
            svg,
            "<rect class=\"state{initial}{terminal}\" x=\"{left:.1}\" y=\"{top:.1}\" \
             width=\"{:.1}\" height=\"{BOX_HEIGHT}\" rx=\"8\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{state}</text>",
            spot.width,
            spot.x,
            spot.y + 4.5
        );
    }
}

fn width(state: &str) -> f64 {
    state.chars().count() as f64 * LETTER + 26.0
}

/// How high a step swings that passes over so many columns.
fn lift(columns: usize) -> f64 {
    (columns as f64 * SWING).min(2.0 * ROW)
}

/// To the right as a curve between the sides; else below the boxes, dashed.
fn arrow(svg: &mut String, from: Spot, to: Spot, label: &str) {
    let (path, class, x, y) = if from.column < to.column {
        let (x1, x2) = (from.x + from.width / 2.0, to.x - to.width / 2.0);
        let bend = (x2 - x1) / 2.0;
        // Over the boxes of the columns between.
        let lift = lift(to.column - from.column - 1);
        let path = format!(
            "M{x1:.1} {:.1}C{:.1} {:.1} {:.1} {:.1} {x2:.1} {:.1}",
            from.y,
            x1 + bend,
            from.y - lift,
            x2 - bend,
            to.y - lift,
            to.y
        );
        (path, "step", f64::midpoint(x1, x2), f64::midpoint(from.y, to.y) - lift * 0.75 - 5.0)
    } else {
        let below = from.y.max(to.y) + BOX_HEIGHT / 2.0 + SWING;
        let (top_from, top_to) = (from.y + BOX_HEIGHT / 2.0, to.y + BOX_HEIGHT / 2.0);
        // A little apart where a state leads to its own column.
        let (x1, x2) = (from.x - 12.0, to.x + 12.0);
        let path = format!(
            "M{x1:.1} {top_from:.1}C{x1:.1} {below:.1} {x2:.1} {below:.1} {x2:.1} {top_to:.1}"
        );
        (path, "step back", f64::midpoint(x1, x2), below - 8.0)
    };
    let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#arrow)\"/>");
    if !label.is_empty() {
        let _ = writeln!(
            svg,
            "<text class=\"label\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>"
        );
    }
}
