-- Cached users by tier and account age, all companies together, the largest segments first: the eviction's report.
SELECT
    subscription_tier,
    account_age,
    sum(users)::bigint AS users,
    sum(users_active)::bigint AS users_active
FROM v_user_profile_summary
GROUP BY subscription_tier, account_age
ORDER BY users DESC, subscription_tier, account_age
LIMIT %(row_limit)s
