-- New pictures, their bytes, what a model version says of them, and the sums of the day: in one
-- statement, which is a transaction and one way to the server and back. For PostgreSQL alone.
-- A picture that is there already, or one with a label that is new, is left out and not returned.
WITH given AS (
    SELECT sent.*, labels.id AS label_id
    FROM UNNEST(
        CAST(:sha256 AS text[]), CAST(:content AS bytea[]), CAST(:media_type AS text[]),
        CAST(:width AS integer[]), CAST(:height AS integer[]), CAST(:label AS text[]),
        CAST(:confidence AS double precision[])
    ) AS sent (sha256, content, media_type, width, height, label, confidence)
    JOIN labels ON labels.name = sent.label
),
new_images AS (
    INSERT INTO images (
        sha256, collection, split, media_type, width, height, size_bytes, created_at
    )
    SELECT
        sha256, :collection, :split, media_type, width, height, OCTET_LENGTH(content),
        CAST(:now AS timestamptz)
    FROM given
    ORDER BY sha256
    ON CONFLICT (sha256) DO NOTHING
    RETURNING id, sha256
),
fresh AS (
    SELECT given.*, new_images.id FROM new_images JOIN given ON given.sha256 = new_images.sha256
),
new_contents AS (
    INSERT INTO contents (sha256, content) SELECT sha256, content FROM fresh
),
new_sums AS (
    INSERT INTO daily_counts (
        day, model_version_id, label_id, predictions, labelled, correct,
        confidence_sum, confidence_squares
    )
    SELECT
        CAST(:day AS date), CAST(:version AS integer), label_id, COUNT(*), 0, 0,
        SUM(confidence), SUM(confidence * confidence)
    FROM fresh
    GROUP BY label_id
    ORDER BY label_id
    ON CONFLICT (day, model_version_id, label_id) DO UPDATE SET
        predictions = daily_counts.predictions + EXCLUDED.predictions,
        confidence_sum = daily_counts.confidence_sum + EXCLUDED.confidence_sum,
        confidence_squares = daily_counts.confidence_squares + EXCLUDED.confidence_squares
),
new_predictions AS (
    INSERT INTO predictions (image_id, model_version_id, label_id, confidence, created_at)
    SELECT id, CAST(:version AS integer), label_id, confidence, CAST(:now AS timestamptz)
    FROM fresh
    RETURNING id, image_id
)
SELECT new_images.sha256, new_predictions.id
FROM new_predictions
JOIN new_images ON new_images.id = new_predictions.image_id
