"""Parts of the detection study: labelled text, measures, hostile text, peers, the page."""
