//! The comparison as a picture: how many a second, on a scale of powers of ten.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::cases::Whose;
use crate::peers;
use crate::rounds::Row;
use crate::table::shown_count;

const WIDTH: u32 = 940;

/// Of a bar, with the space around it.
const BAR: u32 = 24;

/// Of title and axis of a scenario.
const FRAME: u32 = 84;

/// Room for the names of servers.
const NAMES: u32 = 340;

const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);
const FLOOR: RGBColor = RGBColor(0x8a, 0x8a, 0x8a);
const DURABLE: RGBColor = RGBColor(0xd9, 0x8a, 0x2b);
const IN_MEMORY: RGBColor = RGBColor(0xf1, 0xd6, 0xaa);

/// Between a bar and what is written beside it.
const SPACE: i32 = 6;

/// Draws each scenario that has peers.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn plot(rows: &[Row], path: &Path) -> Result<()> {
    let mut scenarios: Vec<Vec<&Row>> = Vec::new();
    for row in rows.iter().filter(|row| !row.samples.is_empty()) {
        match scenarios
            .iter_mut()
            .find(|of| of.iter().any(|it| it.is_comparable(row)))
        {
            Some(of) => of.push(row),
            None => scenarios.push(vec![row]),
        }
    }
    let has_peers = |of: &Vec<&Row>| of.iter().any(|row| row.case.whose == Whose::Peers);
    scenarios.retain(has_peers);
    let height = |of: &Vec<&Row>| of.len() as u32 * BAR + FRAME;
    let whole: u32 = scenarios.iter().map(height).sum();
    let root = SVGBackend::new(path, (WIDTH, whole.max(1))).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let mut left = root.clone();
        for of in &scenarios {
            let (upper, lower) = left.split_vertically(height(of));
            draw(of, &upper)?;
            left = lower;
        }
        root.present()?;
        Ok(())
    };
    let drawn = drawn().map_err(|error| anyhow!("{error}"));
    drawn.with_context(|| path.display().to_string())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(rows: &[&Row], area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let bars: Vec<(&Row, f64)> = rows
        .iter()
        .filter_map(|row| Some((*row, row.median(|sample| sample.per_second)?)))
        .collect();
    let most = bars.iter().map(|(_, count)| *count).fold(10.0, f64::max);
    let title = format!("{}, {}: per second", first.case.scenario, first.case.detail);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(8)
        .margin_left(NAMES)
        .margin_right(70)
        .x_label_area_size(24)
        .build_cartesian_2d((1.0..most).log_scale(), 0.0..bars.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(6)
        .x_label_formatter(&|count| shown_count(*count))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let place = |at: usize| (bars.len() - at) as f64;
    chart.draw_series(bars.iter().enumerate().map(|(at, (row, count))| {
        let color = match row.case.whose {
            Whose::Floor => FLOOR,
            Whose::Ours => OURS,
            Whose::Peers if row.case.mode == peers::IN_MEMORY => IN_MEMORY,
            Whose::Peers => DURABLE,
        };
        let corners = [(1.0, place(at) - 0.15), (*count, place(at) - 0.85)];
        Rectangle::new(corners, color.filled())
    }))?;
    for (at, (row, count)) in bars.iter().enumerate() {
        let (_, y) = chart.backend_coord(&(1.0, place(at) - 0.5));
        let (x, _) = chart.backend_coord(&(*count, 0.0));
        let (base_x, base_y) = area.get_base_pixel();
        let style = |place| {
            (FONT, 13)
                .into_text_style(area)
                .pos(Pos::new(place, VPos::Center))
        };
        let name = (NAMES as i32 - SPACE, y - base_y);
        area.draw_text(&row.server(), &style(HPos::Right), name)?;
        let number = (x - base_x + SPACE, y - base_y);
        area.draw_text(&shown_count(*count), &style(HPos::Left), number)?;
    }
    Ok(())
}
