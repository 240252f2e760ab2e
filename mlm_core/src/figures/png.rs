//! Takes a drawing (SVG), gives a PNG; which figures are drawings is left to [`crate::figures::figure`].

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::{Error, Result};

/// Pixels for each of the drawing, enough for a screen with small ones.
const SCALE: f32 = 2.0;

/// The drawing in pixels, its text in DejaVu Sans, whatever fonts the machine has.
pub(crate) fn encode(svg: &str) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| Error::Figure(error.to_string());
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(&error))?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| failed(&"a drawing without a size"))?;
    let mut pixels = Pixmap::new(size.width(), size.height()).ok_or_else(|| failed(&"a drawing that is too large"))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(&error))
}
