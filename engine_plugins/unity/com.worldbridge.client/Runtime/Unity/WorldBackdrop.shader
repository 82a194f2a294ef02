// Draws a world's frame behind and between the scene's own objects: each pixel has the depth of the
// world's surface. The frame is reprojected from its camera to the display's, with parallax where it has
// depth. For the built-in pipeline and URP.
Shader "worldbridge/World Backdrop"
{
    Properties
    {
        [NoScaleOffset] _MainTex ("Frame", 2D) = "black" {}
        [NoScaleOffset] _DepthTex ("Depth", 2D) = "black" {}
    }

    SubShader
    {
        Tags { "Queue" = "Geometry-100" "RenderType" = "Opaque" "IgnoreProjector" = "True" }

        Pass
        {
            Cull Off
            ZWrite On
            ZTest LEqual

            CGPROGRAM
            #pragma vertex Vertex
            #pragma fragment Fragment
            #pragma target 3.5
            #include "UnityCG.cginc"

            sampler2D _MainTex;
            sampler2D _DepthTex;
            float _DepthScale; // metres at 1; 0: the frame has no depth
            float4 _FrameTangents; // of half the fields of view: horizontal, vertical
            float4x4 _ToFrame; // from the world to the frame's camera, which looks along +Z
            float _Moved; // 1: the cameras stand in different places
            float _Recede; // share of its distance by which a surface stands farther

            static const int Steps = 40;
            static const int Refinements = 6;
            static const float Nearest = 0.2; // metres
            static const float Thickness = 0.12; // of its distance: how far behind it still is the surface

            struct Varyings
            {
                float4 position : SV_POSITION;
                float3 ray : TEXCOORD0; // in the world, one metre along the display camera's axis
            };

            struct Output
            {
                fixed4 color : SV_Target;
                float depth : SV_Depth;
            };

            Varyings Vertex(appdata_base input)
            {
                float2 place = input.vertex.xy * 2.0; // of a quad from -0.5 to 0.5
                Varyings output;
                output.position = float4(place, UNITY_NEAR_CLIP_VALUE, 1.0);
                float2 up = float2(place.x, place.y * _ProjectionParams.x);
                float4 view = mul(unity_CameraInvProjection, float4(up, 0.5, 1.0));
                view.xyz /= view.w;
                float3 ray = float3(view.xy / abs(view.z), -1.0);
                output.ray = mul((float3x3)UNITY_MATRIX_I_V, ray);
                return output;
            }

            float2 PlaceInFrame(float3 place)
            {
                return place.xy / max(place.z, 1e-4) / _FrameTangents.xy * 0.5 + 0.5;
            }

            // Metres along the frame's axis; unknown depth and sky are far away.
            float DepthAt(float2 uv)
            {
                uv = saturate(uv);
                float metres = tex2Dlod(_DepthTex, float4(uv.x, 1.0 - uv.y, 0, 0)).r * _DepthScale;
                return metres > 0.0 ? metres : 0.99 * _ProjectionParams.z;
            }

            bool IsBehind(float3 place)
            {
                return place.z > DepthAt(PlaceInFrame(place));
            }

            Output Fragment(Varyings input)
            {
                float far = 0.99 * _ProjectionParams.z;
                float3 origin = mul(_ToFrame, float4(_WorldSpaceCameraPos, 1.0)).xyz;
                float3 turned = mul((float3x3)_ToFrame, input.ray);
                // What is not found below is far away, or was hidden from the frame's camera.
                float2 uv = PlaceInFrame(turned);
                float metres = far;
                if (_DepthScale > 0.0 && _Moved < 0.5)
                {
                    metres = min(DepthAt(uv) / max(turned.z, 1e-4), far);
                }
                else if (_DepthScale > 0.0)
                {
                    float before = Nearest;
                    [loop]
                    for (int i = 1; i <= Steps; i++) // even steps of nearness: of pixels in the frame
                    {
                        float at = 1.0 / lerp(1.0 / Nearest, 1.0 / far, i / (float)Steps);
                        float3 place = origin + turned * at;
                        if (place.z > 0.0 && IsBehind(place))
                        {
                            float low = before;
                            float high = at;
                            [loop]
                            for (int j = 0; j < Refinements; j++)
                            {
                                float middle = 0.5 * (low + high);
                                if (IsBehind(origin + turned * middle)) high = middle;
                                else low = middle;
                            }
                            float3 hit = origin + turned * high;
                            float2 found = PlaceInFrame(hit);
                            float surface = DepthAt(found);
                            if (hit.z - surface < Thickness * surface + 0.02)
                            {
                                uv = found;
                                metres = high;
                                break;
                            }
                        }
                        before = at;
                    }
                }
                metres = min(metres * (1.0 + _Recede), far);
                float3 shown = _WorldSpaceCameraPos + input.ray * metres;
                float4 clip = mul(UNITY_MATRIX_VP, float4(shown, 1.0));
                Output output;
                output.color = tex2Dlod(_MainTex, float4(saturate(uv), 0, 0));
                output.depth = clip.z / clip.w;
                #if !defined(UNITY_REVERSED_Z)
                output.depth = output.depth * 0.5 + 0.5;
                #endif
                return output;
            }
            ENDCG
        }
    }
}
