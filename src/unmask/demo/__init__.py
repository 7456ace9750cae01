"""The demo: a world small enough to know completely, so that a trained model can be marked like an exam.

`scenes` draws pictures whose captions are true by construction, `reading` looks at any picture and says what it shows,
`doodles` draws a wide variety of pictures for a small image tokenizer to learn from, and `report` puts a run on one page.
"""
