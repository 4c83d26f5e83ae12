"""Candidates exist, are visible, come from authors who are not blocked, and are shown once per session."""


def test_hidden_posts_and_blocked_authors_are_never_returned(small):
    posts = small.table("posts").set_index("post_id")
    returned = small.table("returned")
    assert (~posts.visible).any()
    assert posts.visible[returned.post_id].all()
    pairs = set(zip(returned.user_id, posts.author_id[returned.post_id], strict=True))
    blocks = small.table("blocks")
    assert len(blocks) > 50
    assert not pairs & set(zip(blocks.user_id, blocks.author_id, strict=True))


def test_no_user_blocks_an_author_they_follow(small):
    follows, blocks = small.table("follows"), small.table("blocks")
    assert not set(zip(follows.user_id, follows.author_id, strict=True)) & set(
        zip(blocks.user_id, blocks.author_id, strict=True)
    )


def test_a_slate_consists_of_distinct_recorded_candidates_that_exist(small):
    requests, posts = small.table("requests"), small.table("posts").set_index("post_id")
    slates = small.table("returned").groupby("request_id").post_id.agg(list)
    assert len(slates) == len(requests)
    born = posts.created_at.to_dict()
    for request in requests.itertuples():
        candidates = request.candidates.tolist()
        assert len(set(candidates)) == len(candidates) <= small.config.policy.n_candidates
        assert max(born[post] for post in candidates) <= request.now
        slate = slates[request.request_id]
        assert len(slate) == min(small.config.policy.slate_size, len(candidates))
        assert len(set(slate)) == len(slate)
        assert set(slate) <= set(candidates)


def test_a_request_before_the_first_post_has_no_candidates(simulated):
    world = simulated(n_posts=200, n_impressions=60_000, n_days=14, new_post_share=1, seed=3)
    rows = world.table("requests")[["now", "candidates"]]
    first = world.table("posts").created_at.min()
    assert (rows.now < first).any()
    assert (rows.candidates[rows.now < first].map(len) == 0).all()
    rows = rows.explode("candidates").dropna()
    assert (world.table("posts").set_index("post_id").created_at[rows.candidates].to_numpy() <= rows.now).all()


def test_candidates_are_fresh_or_by_followed_authors_more_often_than_random_posts(small):
    requests, posts = small.table("requests"), small.table("posts").set_index("post_id")
    rows = requests[["user_id", "now", "candidates"]].explode("candidates").sample(20_000, random_state=0)
    rows["author_id"] = posts.author_id[rows.candidates].to_numpy()
    age = rows.now - posts.created_at[rows.candidates].to_numpy()
    follows = small.table("follows").assign(follows=1)[["user_id", "author_id", "follows"]]
    followed = rows.merge(follows, on=["user_id", "author_id"], how="left").follows.notna()
    of_all_pairs = len(follows) / (small.config.n_users * small.config.n_authors)
    assert followed.mean() > 1.3 * of_all_pairs
    day = 86_400 * 10**6
    born_in_a_day = small.config.new_post_share / small.config.n_days
    assert (age < day).mean() > 1.5 * born_in_a_day


def test_a_session_does_not_show_a_post_twice(small):
    impressions = small.table("impressions").drop_duplicates("event_id")
    rows = impressions.merge(small.table("requests")[["request_id", "session_id"]], on="request_id")
    assert rows.groupby("session_id").request_id.nunique().max() > 3
    assert not rows.duplicated(["session_id", "post_id"]).any()
