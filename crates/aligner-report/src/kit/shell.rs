//! What is around the content of a page.

use super::text::Escaped;

const STYLE: &str = include_str!("style.css");

/// A whole page around `body`, which is HTML; `title` is text, and `style` are more rules behind those of the kit, or nothing.
///
/// The page follows the reader's light or dark scheme, and prints. Nothing in `body` can load anything or run.
pub fn page(title: &str, style: &str, body: &str) -> String {
    // No script and nothing from elsewhere: should anything of a user's text ever become markup, it can do nothing.
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n\
         <style>\n{STYLE}{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        Escaped(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_text_and_style_comes_behind_the_kits() {
        let html = page("</title><script>", ".mine { color: red; }\n", "<p>x</p>\n");
        assert!(html.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
        assert!(html.contains("}\n.mine { color: red; }\n</style>"));
        assert!(html.contains("<main>\n<p>x</p>\n</main>"));
    }
}
