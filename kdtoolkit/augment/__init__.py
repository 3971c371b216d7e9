"""Generated text: rules that change a text, parts of speech, and the stage that adds the new rows to train."""
