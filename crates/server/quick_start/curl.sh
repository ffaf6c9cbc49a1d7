curl «origin»/v1/embeddings \
  -H "Authorization: Bearer $QUINTET_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "model": "«model»",
    "task": "«task»",
    "dimensions": «dimensions»,
    "input": ["Where do storks spend the winter?"]
  }'
