-- A risk is recorded when the context of its request is fetched, which the comments did not say.

COMMENT ON TABLE business_risks IS 'The risk of a request as of when its context was last fetched, for views; its row goes when its cached context has gone.';
COMMENT ON COLUMN business_risks.risk_score IS 'In [0, 1]; not read back, every batch scores anew.';
