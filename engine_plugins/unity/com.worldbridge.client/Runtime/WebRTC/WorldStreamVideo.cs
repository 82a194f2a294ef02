using System.Collections;
using Unity.WebRTC;
using UnityEngine;

namespace WorldBridge
{
    /// <summary>
    /// Receive the frames of a <see cref="WorldStream"/> as video by WebRTC (VP8), where the server has
    /// it. Compiled where the project has the package com.unity.webrtc. Depth does not travel by video.
    /// </summary>
    [AddComponentMenu("worldbridge/World Stream Video")]
    [RequireComponent(typeof(WorldStream))]
    public sealed class WorldStreamVideo : MonoBehaviour
    {
        private const float GatherSeconds = 5;
        private static WorldStreamVideo updater; // WebRTC.Update runs once, whatever the number of streams

        private WorldStream stream;
        private RTCPeerConnection peer;
        private Welcome welcome; // that the peer was made for

        private void Awake() => stream = GetComponent<WorldStream>();

        private void OnEnable() => stream.Video = true;

        private void OnDisable()
        {
            stream.Video = false;
            if (updater == this) updater = null;
            StopAllCoroutines();
            Close();
        }

        private void Update()
        {
            if (updater == null) // nobody, or one that an earlier Play destroyed
            {
                updater = this;
                StartCoroutine(WebRTC.Update()); // textures are not refreshed without
            }
            WorldClient client = stream.Client;
            Welcome newest = client?.Welcome;
            if (newest != welcome)
            {
                Close();
                welcome = newest;
                if (newest != null && newest.Transport == "webrtc") StartCoroutine(Offer(client, newest));
            }
            if (peer != null && client != null && client.TryTakeAnswer(out string sdp))
                StartCoroutine(Accept(peer, sdp));
        }

        private IEnumerator Offer(WorldClient client, Welcome given)
        {
            var configuration = default(RTCConfiguration);
            configuration.iceServers = new RTCIceServer[given.IceServers.Length];
            for (int i = 0; i < given.IceServers.Length; i++)
                configuration.iceServers[i] = new RTCIceServer
                {
                    urls = given.IceServers[i].Urls,
                    username = given.IceServers[i].Username,
                    credential = given.IceServers[i].Credential,
                };
            var mine = new RTCPeerConnection(ref configuration);
            peer = mine;
            mine.OnTrack = e =>
            {
                if (e.Track is VideoStreamTrack video) video.OnVideoReceived += stream.ShowVideo;
            };
            var direction = new RTCRtpTransceiverInit { direction = RTCRtpTransceiverDirection.RecvOnly };
            mine.AddTransceiver(TrackKind.Video, direction);
            RTCSessionDescriptionAsyncOperation offer = mine.CreateOffer();
            yield return offer;
            if (offer.IsError || peer != mine)
            {
                Report(mine, offer.Error.message);
                yield break;
            }
            RTCSessionDescription description = offer.Desc;
            RTCSetSessionDescriptionAsyncOperation local = mine.SetLocalDescription(ref description);
            yield return local;
            // The offer travels once, with all candidates in it.
            float until = Time.realtimeSinceStartup + GatherSeconds;
            while (
                peer == mine
                && mine.GatheringState != RTCIceGatheringState.Complete
                && Time.realtimeSinceStartup < until
            )
                yield return null;
            if (local.IsError) Report(mine, local.Error.message);
            else if (peer == mine) client.Offer(mine.LocalDescription.sdp);
        }

        private IEnumerator Accept(RTCPeerConnection mine, string sdp)
        {
            var answer = new RTCSessionDescription { type = RTCSdpType.Answer, sdp = sdp };
            RTCSetSessionDescriptionAsyncOperation remote = mine.SetRemoteDescription(ref answer);
            yield return remote;
            if (remote.IsError) Report(mine, remote.Error.message);
        }

        private void Report(RTCPeerConnection mine, string message)
        {
            if (peer == mine) stream.Fail("webrtc_failed", "The video connection failed", "WebRTC with VP8", message);
        }

        private void Close()
        {
            peer?.Close();
            peer?.Dispose();
            peer = null;
            welcome = null;
        }
    }
}
