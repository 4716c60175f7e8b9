# cosign: signatures as referrers (bundles) and under a tag, without any service of the internet.

cosign_steps() {
	needs cosign cosign skopeo || return 0
	export COSIGN_PASSWORD=
	seed cosign/bundle
	seed cosign/tag
	step "cosign generate key" env -C "$work" cosign generate-key-pair
	step "cosign sign, bundle" cosign_sign cosign/bundle true
	step "cosign verify, bundle" cosign_verify cosign/bundle true
	step "cosign sign, tag" cosign_sign cosign/tag false
	step "cosign verify, tag" cosign_verify cosign/tag false
	step "cosign tree" expect sha256: cosign tree --allow-http-registry "$host/cosign/bundle:v1"
	step "cosign refuses another key" cosign_refuse
}

# cosign_sign REPOSITORY NEW-FORMAT
cosign_sign() {
	cosign sign --yes --key "$work/cosign.key" --use-signing-config=false --tlog-upload=false \
		--new-bundle-format="$2" --allow-http-registry "$host/$1@$(digest_of "$1" v1)"
}

# cosign_verify REPOSITORY NEW-FORMAT
cosign_verify() {
	cosign verify --key "$work/cosign.pub" --insecure-ignore-tlog --new-bundle-format="$2" \
		--allow-http-registry "$host/$1@$(digest_of "$1" v1)"
}

cosign_refuse() {
	cd "$(fresh other-key)"
	cosign generate-key-pair
	refuse cosign verify --key cosign.pub --insecure-ignore-tlog --new-bundle-format=true \
		--allow-http-registry "$host/cosign/bundle@$(digest_of cosign/bundle v1)"
}
