"""A workload that speaks to the Workload API by py-spiffe; prints what it is."""

import sys

from spiffe import TrustDomain, WorkloadApiClient

with WorkloadApiClient(sys.argv[1]) as client:
    context = client.fetch_x509_context()
    svid = context.default_svid
    domain = TrustDomain(svid.spiffe_id.trust_domain.name)
    assert context.x509_bundle_set.get_bundle_for_trust_domain(domain).x509_authorities
    assert client.fetch_x509_bundles().get_bundle_for_trust_domain(domain)
    token = client.fetch_jwt_svid(audience={"orders-api"})
    assert client.fetch_jwt_bundles().get_bundle_for_trust_domain(domain).jwt_authorities
    assert client.validate_jwt_svid(token.token, "orders-api").spiffe_id == svid.spiffe_id
    print(svid.spiffe_id)
