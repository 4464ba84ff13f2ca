-- Under which key the parts of a content are stored, if it arrived in parts: its hash was not known before
-- the last one. NULL: under the hash. While it arrives, the key is in the place of the hash.
ALTER TABLE blobs ADD COLUMN parts_key TEXT;
